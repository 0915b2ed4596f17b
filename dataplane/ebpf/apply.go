// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"slices"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// apply makes the maps say what snap says, in three passes: everything that is
// added or changed is planned, then written, then what is no longer wanted is
// removed. So a frontend that moves from one service to another always leads
// to one of them.
func (s *state) apply(snap *lb.Snapshot) dataplane.Report {
	rep := dataplane.Report{Failed: make(map[lb.ServiceID]error)}
	diff := s.applied.Compare(snap)
	plans := s.planAll(&diff, rep.Failed)
	plans = s.resolve(plans, diff.Removed, rep.Failed)
	written := plans[:0]
	for _, p := range plans {
		if err := s.write(p); err != nil {
			rep.Failed[p.svc.ID] = err
			continue
		}
		written = append(written, p)
		if p.old == nil {
			rep.Added++
		} else {
			rep.Changed++
		}
	}
	for _, p := range written {
		if err := s.dropFrontends(p); err != nil {
			rep.Failed[p.svc.ID] = err
		}
	}
	for _, svc := range diff.Removed {
		if err := s.remove(svc); err != nil {
			rep.Failed[svc.ID] = err
			continue
		}
		rep.Removed++
	}
	if err := s.remember(snap, len(rep.Failed) > 0); err != nil {
		rep.Err = err
	}
	return rep
}

// planAll plans what was added and changed. Services that say the same as
// before only get their new pointer.
func (s *state) planAll(diff *lb.Diff, failed map[lb.ServiceID]error) []*plan {
	want := slices.Clone(diff.Added)
	for _, c := range diff.Changed {
		if c.Old.Equal(c.New) {
			rec := s.records[c.New.ID.Hash()]
			rec.svc = c.New
			for i, b := range rec.list {
				b.in = &c.New.Backends[i]
			}
			continue
		}
		want = append(want, c.New)
	}
	var plans []*plan
	var entries uint32
	for _, svc := range want {
		p, err := s.plan(svc, entries)
		if err != nil {
			failed[svc.ID] = err
			continue
		}
		entries += p.entries
		plans = append(plans, p)
	}
	return plans
}

// resolve takes out the plans that want a frontend of a service that keeps it,
// because that service failed; and those that depend on them in turn.
func (s *state) resolve(plans []*plan, removed []*lb.Service, failed map[lb.ServiceID]error) []*plan {
	if !slices.ContainsFunc(plans, func(p *plan) bool { return len(p.taken) > 0 }) {
		return plans
	}
	yields := make(map[*record]bool, len(plans)+len(removed))
	for _, p := range plans {
		yields[p.rec] = true
	}
	for _, svc := range removed {
		yields[s.records[svc.ID.Hash()]] = true
	}
	for {
		n := len(plans)
		plans = slices.DeleteFunc(plans, func(p *plan) bool {
			for _, owner := range p.taken {
				if yields[owner.rec] {
					continue
				}
				failed[p.svc.ID] = &lb.ConflictError{First: owner.rec.id, Second: p.svc.ID, Frontend: owner.as.Key()}
				yields[p.rec] = false
				s.cancel(p)
				return true
			}
			return false
		})
		if len(plans) == n {
			return plans
		}
	}
}

// remember sets applied. If something failed it is put together from the
// records, so that the next comparison finds again what is missing.
func (s *state) remember(snap *lb.Snapshot, failed bool) error {
	if !failed {
		s.applied = snap
		return nil
	}
	var all []*lb.Service
	for _, rec := range s.records {
		if rec.svc == nil {
			continue
		}
		lost := func(f lb.Frontend) bool { return s.owners[f.Key()].rec != rec }
		if slices.ContainsFunc(rec.svc.Frontends, lost) {
			svc := *rec.svc
			svc.Frontends = slices.DeleteFunc(slices.Clone(svc.Frontends), lost)
			rec.svc = &svc
		}
		all = append(all, rec.svc)
	}
	applied, err := lb.NewSnapshot(all...)
	if err != nil {
		return fmt.Errorf("remember what was applied: %w", err)
	}
	s.applied = applied
	return nil
}
