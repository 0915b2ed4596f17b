// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
)

// apiServer is the Service by which the API server is reached, perhaps by waggle
// too: without backends nothing could say that it has some again.
var apiServer = types.NamespacedName{Namespace: "default", Name: "kubernetes"}

// Flush returns the snapshot of what the store was told, and the problems that are
// new since the last Flush. If nothing changed it is the last snapshot itself;
// services that did not change keep their pointers. It costs what changed.
//
// An error would be a fault of the store: it must be told, and the last snapshot
// stays.
func (s *Store) Flush() (*lb.Snapshot, []Problem, error) {
	var set []*lb.Service
	var remove []lb.ServiceID
	problems := s.problems
	for e := range s.dirty {
		next, all := s.build(e)
		for _, p := range all {
			if !slices.Contains(e.told, p) {
				problems = append(problems, p)
			}
		}
		e.told = all
		changed, gone := s.differences(e, next)
		set, remove = append(set, changed...), append(remove, gone...)
		s.facts.built(e, next)
		if e.svc == nil && len(e.slices) == 0 {
			delete(s.services, e.key)
		}
	}
	s.dirty = make(map[*entry]bool) // to clear one that was large costs as much each time
	s.problems = nil
	next := s.last
	if next == nil || len(set)+len(remove) > 0 {
		var err error
		if next, err = s.last.Update(set, remove); err != nil {
			return s.last, problems, fmt.Errorf("services of the API server: %w", err)
		}
	}
	s.last = s.withNode(next)
	return s.last, problems, nil
}

// differences compares with the last snapshot, and remembers what the next has.
func (s *Store) differences(e *entry, next []*lb.Service) (set []*lb.Service, remove []lb.ServiceID) {
	for _, id := range e.ids {
		if !slices.ContainsFunc(next, func(svc *lb.Service) bool { return svc.ID == id }) {
			remove = append(remove, id)
		}
	}
	e.ids = e.ids[:0]
	for _, svc := range next {
		e.ids = append(e.ids, svc.ID)
		if old := s.last.Service(svc.ID); old == nil || !old.Equal(svc) {
			set = append(set, svc)
		}
	}
	return set, remove
}

func (s *Store) withNode(next *lb.Snapshot) *lb.Snapshot {
	if !s.nodeDirty {
		return next
	}
	s.nodeDirty = false
	var ranges []netip.Prefix
	for _, r := range s.ranges {
		ranges = append(ranges, r...)
	}
	model := s.t.model(&s.node, masked(ranges))
	if next.Node().Equal(&model) {
		return next
	}
	return next.WithNode(model)
}

// build returns the services of an entry and all that is wrong with its Service.
func (s *Store) build(e *entry) (out []*lb.Service, problems []Problem) {
	if e.svc == nil {
		return nil, nil
	}
	problems = slices.Clone(e.svc.problems)
	for _, p := range e.svc.plans {
		svc := p.model
		svc.Frontends = s.frontends(e, p, &problems)
		svc.Backends = p.backends(e.slices, e.svc.zoneWeights, s.node.zone)
		if old := s.last.Service(svc.ID); e.key == apiServer && len(svc.Backends) == 0 && old != nil {
			svc.Backends = old.Backends
		}
		if a := s.node.address(svc.ID.Family); a.IsValid() && contains(svc.SourceRanges, a) {
			// A connection of this machine to an address that it has comes from there.
			svc.SourceRanges = masked(slices.Concat(svc.SourceRanges, p.vips))
		}
		out = append(out, &svc)
	}
	return out, problems
}

// frontends returns those claims of a plan that no other plan has won.
func (s *Store) frontends(e *entry, p *plan, problems *[]Problem) []lb.Frontend {
	out := make([]lb.Frontend, 0, len(p.claims))
	for _, c := range p.claims {
		if owner := s.claims.owner(c.Frontend); owner.id != p.model.ID {
			*problems = append(*problems, newProblem(e.svc.object, ReasonFrontendConflict,
				"%s is not served for this Service: Service %s has it. Give one of them another address or port.",
				describe(c.Frontend), owner.by.key))
			continue
		}
		f := c.Frontend
		if f.Masquerade == lb.MasqueradeOutsiders && !s.t.podsKnown(&s.node, p.model.ID.Family) {
			f.Masquerade = lb.MasqueradeNever
		}
		out = append(out, f)
	}
	return out
}

func describe(f lb.Frontend) string {
	if f.IsNodePort() {
		return fmt.Sprintf("Node port %d/%s", f.Addr.Port(), f.Protocol)
	}
	return "Frontend " + f.String()
}
