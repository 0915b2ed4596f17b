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
// cannot have: it is left out and returned as a conflict.
func merge(sources []source) (*lb.Snapshot, map[lb.ServiceID]error, error) {
	if len(sources) == 1 {
		return sources[0].wants, nil, nil
	}
	names := make(map[lb.ServiceID]string)
	frontends := make(map[lb.Frontend]string)
	conflicts := make(map[lb.ServiceID]error)
	var out []*lb.Service
	for _, src := range sources {
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
				frontends[f] = src.name
			}
			out = append(out, svc)
		}
	}
	snap, err := lb.NewSnapshot(out...)
	if err != nil {
		return nil, nil, fmt.Errorf("merge sources: %w", err)
	}
	return snap, conflicts, nil
}

func taken(svc *lb.Service, owners map[lb.Frontend]string) (lb.Frontend, string) {
	for _, f := range svc.Frontends {
		if owner := owners[f]; owner != "" {
			return f, owner
		}
	}
	return lb.Frontend{}, ""
}

// verdict is the dataplane's answer about one service, nil if it is supported.
type verdict struct {
	svc *lb.Service
	err error
}

// admit returns what of desired the dataplane can be given: all it supports,
// and for the rest what was served before, by this process or an earlier one,
// unless its VIPs are now another's.
// Unchanged services are not asked for again.
func (l *Loop) admit(desired *lb.Snapshot, conflicts map[lb.ServiceID]error) (*lb.Snapshot, map[lb.ServiceID]error, error) {
	verdicts := make(map[lb.ServiceID]verdict, desired.Len())
	refused := make(map[lb.ServiceID]error)
	maps.Copy(refused, conflicts)
	var out []*lb.Service
	for svc := range desired.All() {
		v := l.verdicts[svc.ID]
		if v.svc != svc {
			v = verdict{svc, l.opts.Dataplane.Supports(svc)}
		}
		verdicts[svc.ID] = v
		if v.err == nil {
			out = append(out, svc)
			continue
		}
		refused[svc.ID] = v.err
	}
	if len(out) == desired.Len() {
		l.logRefused(refused)
		l.verdicts = verdicts
		return desired, refused, nil
	}
	if l.admitted == nil { // a process before this one may have served them
		held, err := l.opts.Dataplane.Read()
		if err != nil {
			return nil, nil, fmt.Errorf("find what is served: %w", err)
		}
		l.admitted = held
	}
	// What a kept service has, no other kept one can have: they were served
	// together. So only those that are served as desired count.
	for svc := range desired.All() {
		old := l.admitted.Service(svc.ID)
		if verdicts[svc.ID].err == nil || old == nil {
			continue
		}
		free := !slices.ContainsFunc(old.Frontends, func(f lb.Frontend) bool {
			owner := desired.Lookup(f)
			return owner != nil && verdicts[owner.ID].err == nil
		})
		if free {
			out = append(out, old)
		}
	}
	l.logRefused(refused)
	l.verdicts = verdicts
	snap, err := lb.NewSnapshot(out...)
	if err != nil {
		return nil, nil, fmt.Errorf("leave out unsupported services: %w", err)
	}
	return snap, refused, nil
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
