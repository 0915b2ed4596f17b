// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// commit makes next the held snapshot, but for the services in failed, which
// stay as they are in held. It adds to failed what stands in another's way.
func (k *Kernel) commit(held, next *lb.Snapshot, diff lb.Diff, failed map[lb.ServiceID]error) dataplane.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	rep := dataplane.Report{Failed: failed}
	runs := k.compileAll(diff, failed)
	for blocked(held, diff, failed) {
	}
	merged, err := lb.NewSnapshot(merge(held, next, failed)...)
	if err != nil {
		return dataplane.Report{Err: fmt.Errorf("apply snapshot: %w", err)}
	}
	for _, svc := range diff.Added {
		if failed[svc.ID] == nil {
			k.set(svc, runs[svc.ID])
			rep.Added++
		}
	}
	for _, c := range diff.Changed {
		if failed[c.New.ID] == nil {
			k.set(c.New, runs[c.New.ID])
			rep.Changed++
		}
	}
	for _, svc := range diff.Removed {
		if failed[svc.ID] == nil {
			k.services[svc.ID].remove()
			rep.Removed++
		}
	}
	k.held = merged.WithNode(*next.Node())
	k.findVIPs()
	k.forget()
	return rep
}

func (k *Kernel) set(svc *lb.Service, runs map[lb.Pools]*sched.Run) {
	s := k.services[svc.ID]
	if s == nil {
		s = &service{backends: make(map[netip.AddrPort]*backend)}
		k.services[svc.ID] = s
	}
	s.set(svc, runs)
}

// compileAll makes the schedules of what is new or changed, and adds to failed
// what has none. Those that go on as they are have none here.
func (k *Kernel) compileAll(diff lb.Diff, failed map[lb.ServiceID]error) map[lb.ServiceID]map[lb.Pools]*sched.Run {
	runs := make(map[lb.ServiceID]map[lb.Pools]*sched.Run)
	compile := func(svc *lb.Service) {
		if failed[svc.ID] != nil {
			return
		}
		run, err := k.compile(svc)
		if err != nil {
			failed[svc.ID] = fmt.Errorf("schedule service %s: %w", svc.ID, err)
			return
		}
		runs[svc.ID] = run
	}
	for _, svc := range diff.Added {
		compile(svc)
	}
	for _, c := range diff.Changed {
		if !sameSchedule(c.Old, c.New) {
			compile(c.New)
		}
	}
	return runs
}

func sameSchedule(a, b *lb.Service) bool {
	return a.Scheduler == b.Scheduler && a.SchedulerFlags == b.SchedulerFlags && slices.Equal(a.Backends, b.Backends) &&
		a.UsesLocal() == b.UsesLocal()
}

// compile makes the schedules of a service that is new or changed; they go on where
// they were.
func (k *Kernel) compile(svc *lb.Service) (map[lb.Pools]*sched.Run, error) {
	runs := make(map[lb.Pools]*sched.Run)
	for _, which := range []lb.Pools{lb.Cluster, lb.Local} {
		if which == lb.Local && !svc.UsesLocal() {
			continue
		}
		old := &pool{}
		if s := k.services[svc.ID]; s != nil && s.pools[which] != nil {
			old = s.pools[which]
		}
		run, err := sched.Compile(svc, svc.Pool(which), old.run, old.at)
		if err != nil {
			return nil, err
		}
		if err := supportsRun(svc, run); err != nil {
			return nil, err
		}
		runs[which] = run
	}
	return runs, nil
}

// blocked fails the services that want a frontend which a failed service keeps,
// and says whether it found any: they too keep what they have, so others may
// be blocked by them in turn.
func blocked(held *lb.Snapshot, diff lb.Diff, failed map[lb.ServiceID]error) bool {
	found := false
	check := func(svc *lb.Service) {
		if failed[svc.ID] != nil {
			return
		}
		for _, f := range svc.Frontends {
			if o := held.Lookup(f); o != nil && o.ID != svc.ID && failed[o.ID] != nil {
				failed[svc.ID] = fmt.Errorf("service %s: frontend %s is still held by service %s, which could not be changed: apply again", svc.ID, f, o.ID)
				found = true
				return
			}
		}
	}
	for _, svc := range diff.Added {
		check(svc)
	}
	for _, c := range diff.Changed {
		check(c.New)
	}
	return found
}

// merge is next without what failed, and of that what held has.
func merge(held, next *lb.Snapshot, failed map[lb.ServiceID]error) []*lb.Service {
	out := make([]*lb.Service, 0, next.Len()+len(failed))
	for svc := range next.All() {
		if failed[svc.ID] == nil {
			out = append(out, svc)
		}
	}
	for id := range failed {
		if svc := held.Service(id); svc != nil {
			out = append(out, svc)
		}
	}
	return out
}
