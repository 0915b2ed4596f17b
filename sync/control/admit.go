// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// merge joins what the sources want. What an earlier source has, a later one
// cannot have: it is left out and returned as a conflict. Of the machine the last
// one that says anything is heard.
func merge(sources []source) (*lb.Snapshot, map[lb.ServiceID]error, error) {
	if len(sources) == 1 {
		return sources[0].wants, nil, nil
	}
	names := make(map[lb.ServiceID]string)
	frontends := make(map[lb.Frontend]string)
	conflicts := make(map[lb.ServiceID]error)
	var out []*lb.Service
	var node lb.Node
	for _, src := range sources {
		if n := src.wants.Node(); !n.Equal(&lb.Node{}) {
			node = *n
		}
		for svc := range src.wants.All() {
			if owner, ok := names[svc.ID]; ok {
				conflicts[svc.ID] = fmt.Errorf("source %s wants service %s, source %s has it already: rename one of them", src.name, svc.ID, owner)
				continue
			}
			if f, owner := taken(svc, frontends); owner != "" {
				conflicts[svc.ID] = fmt.Errorf("source %s wants VIP %s, source %s has it already: remove one of them", src.name, f, owner)
				continue
			}
			names[svc.ID] = src.name
			for _, f := range svc.Frontends {
				frontends[f.Key()] = src.name
			}
			out = append(out, svc)
		}
	}
	snap, err := lb.NewSnapshot(out...)
	if err != nil {
		return nil, nil, fmt.Errorf("merge sources: %w", err)
	}
	return snap.WithNode(node), conflicts, nil
}

func taken(svc *lb.Service, owners map[lb.Frontend]string) (lb.Frontend, string) {
	for _, f := range svc.Frontends {
		if owner := owners[f.Key()]; owner != "" {
			return f, owner
		}
	}
	return lb.Frontend{}, ""
}

// admit returns what of desired the dataplane can be given: all it supports,
// and for the rest what was served before, by this process or an earlier one,
// unless its VIPs are now another's. It costs what changed: unchanged services are
// not looked at again.
func (l *Loop) admit(desired *lb.Snapshot, conflicts map[lb.ServiceID]error) (*lb.Snapshot, map[lb.ServiceID]error, error) {
	diff := l.judged.Compare(desired)
	for _, svc := range diff.Removed {
		delete(l.unsupported, svc.ID)
	}
	for _, svc := range diff.Added {
		l.judge(svc)
	}
	for _, c := range diff.Changed {
		l.judge(c.New)
	}
	l.judged = desired
	refused := maps.Clone(l.unsupported)
	maps.Copy(refused, conflicts)
	l.logRefused(refused)
	if len(l.unsupported) == 0 {
		return desired, refused, nil
	}
	snap, err := l.keep(desired)
	return snap, refused, err
}

func (l *Loop) judge(svc *lb.Service) {
	if err := l.opts.Dataplane.Supports(svc); err != nil {
		l.unsupported[svc.ID] = err
	} else {
		delete(l.unsupported, svc.ID)
	}
}

// keep returns desired with what was served before in the place of what is not
// supported.
func (l *Loop) keep(desired *lb.Snapshot) (*lb.Snapshot, error) {
	if l.admitted == nil { // a process before this one may have served them
		held, err := l.opts.Dataplane.Read()
		if err != nil {
			return nil, fmt.Errorf("find what is served: %w", err)
		}
		l.admitted = held
	}
	// What a kept service has, no other kept one can have: they were served
	// together. So only those that are served as desired count.
	taken := func(f lb.Frontend) bool {
		owner := desired.Lookup(f)
		return owner != nil && l.unsupported[owner.ID] == nil
	}
	var kept []*lb.Service
	for id := range l.unsupported {
		if old := l.admitted.Service(id); old != nil && !slices.ContainsFunc(old.Frontends, taken) {
			kept = append(kept, old)
		}
	}
	snap, err := desired.Update(kept, slices.Collect(maps.Keys(l.unsupported)))
	if err != nil {
		return nil, fmt.Errorf("leave out unsupported services: %w", err)
	}
	return snap, nil
}

// logRefused logs each refusal once, until its reason changes.
func (l *Loop) logRefused(refused map[lb.ServiceID]error) {
	l.mu.Lock()
	before := l.status.Refused
	l.mu.Unlock()
	for _, id := range slices.SortedFunc(maps.Keys(refused), lb.ServiceID.Compare) {
		if old := before[id]; old == nil || old.Error() != refused[id].Error() {
			l.opts.Logger.Error("service not served as desired", "service", id.String(), "error", refused[id])
		}
	}
}

// log logs the outcome of an Apply: each failure once, until its text changes;
// repetitions only for debugging.
func (l *Loop) log(r dataplane.Report, took time.Duration) {
	log := l.opts.Logger
	failure := ""
	if r.Err != nil {
		failure = r.Err.Error()
		if failure != l.failure {
			log.Error("apply failed", "error", r.Err)
		}
	}
	failures := make(map[lb.ServiceID]string, len(r.Failed))
	for _, id := range slices.SortedFunc(maps.Keys(r.Failed), lb.ServiceID.Compare) {
		failures[id] = r.Failed[id].Error()
		if failures[id] != l.failures[id] {
			log.Error("service not applied", "service", id.String(), "error", r.Failed[id])
		}
	}
	recovered := (l.failure != "" || len(l.failures) > 0) && failure == "" && len(failures) == 0
	l.failure, l.failures = failure, failures
	show := log.Debug
	if r.Added+r.Changed+r.Removed > 0 || recovered {
		show = log.Info
	}
	show("applied", "added", r.Added, "changed", r.Changed, "removed", r.Removed, "failed", len(r.Failed), "took", took)
}
