// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
)

// Store makes snapshots of the objects that it was told of. What it makes depends
// on those alone, not on their order, but for one thing: the API server's own
// Service keeps its last backends when it loses all. Not safe for concurrent use.
type Store struct {
	t        Translation
	services map[types.NamespacedName]*entry
	slices   map[types.NamespacedName]*slice
	ranges   map[string][]netip.Prefix // by name of the ServiceCIDR
	node     node
	claims   claims

	last      *lb.Snapshot
	dirty     map[*entry]bool
	nodeDirty bool
	problems  []Problem // of slices, since the last Flush
	facts     facts
}

// entry is a Service and the slices that name it; either may be missing.
type entry struct {
	key    types.NamespacedName
	svc    *service
	slices []*slice // by name
	// ids are of the services in the last snapshot; told the problems then.
	ids     []lb.ServiceID
	told    []Problem
	noLocal [2]NoLocal // of IPv4 and IPv6, then
}

// NewStore makes an empty store. It fails if t says what cannot be.
func NewStore(t Translation) (*Store, error) {
	if err := t.complete(); err != nil {
		return nil, err
	}
	return &Store{
		t:         t,
		services:  make(map[types.NamespacedName]*entry),
		slices:    make(map[types.NamespacedName]*slice),
		ranges:    make(map[string][]netip.Prefix),
		claims:    make(claims),
		dirty:     make(map[*entry]bool),
		nodeDirty: true,
		facts:     newFacts(),
	}, nil
}

// SetService adds a Service, or puts it in the place of an earlier state.
func (s *Store) SetService(o *corev1.Service) { s.setService(keyOf(o), s.t.readService(o)) }

// DeleteService removes one, if it is there.
func (s *Store) DeleteService(key types.NamespacedName) { s.setService(key, nil) }

// SetSlice adds an EndpointSlice, or puts it in the place of an earlier state.
func (s *Store) SetSlice(o *discoveryv1.EndpointSlice) { s.setSlice(keyOf(o), s.t.readSlice(o)) }

// DeleteSlice removes one, if it is there.
func (s *Store) DeleteSlice(key types.NamespacedName) { s.setSlice(key, nil) }

// SetNode tells of this machine's Node; those of others are ignored.
func (s *Store) SetNode(o *corev1.Node) {
	if o.Name == s.t.NodeName {
		s.facts.setEligible(eligible(o))
		s.setNode(s.t.readNode(o))
	}
}

// DeleteNode says that there is no Node of this name any more. What this machine's said is
// not forgotten, as the machine is still there; but load balancers are not to choose it.
func (s *Store) DeleteNode(name string) {
	if name == s.t.NodeName {
		s.facts.setEligible(false)
	}
}

// SetServiceCIDR adds a ServiceCIDR, or puts it in the place of an earlier state.
func (s *Store) SetServiceCIDR(o *networkingv1.ServiceCIDR) {
	s.setRanges(o.Name, readPrefixes(o.Spec.CIDRs))
}

// DeleteServiceCIDR removes one, if it is there.
func (s *Store) DeleteServiceCIDR(name string) { s.setRanges(name, nil) }

// setService takes nil for one that is not there, or not served.
func (s *Store) setService(key types.NamespacedName, svc *service) {
	e := s.services[key]
	if e == nil && svc == nil {
		return
	}
	s.facts.serviceChanged()
	e = s.entry(key)
	if e.svc != nil {
		s.claims.remove(e.svc, s.mark)
	}
	if e.svc = svc; svc != nil {
		s.claims.add(e, svc, s.mark)
	}
	s.mark(e)
}

func (s *Store) setSlice(key types.NamespacedName, next *slice) {
	old := s.slices[key]
	if old != nil || next != nil {
		s.facts.sliceChanged(old, next)
	}
	if old != nil {
		e := s.services[old.service]
		at, _ := find(e.slices, key.Name)
		e.slices = slices.Delete(e.slices, at, at+1)
		delete(s.slices, key)
		s.mark(e)
	}
	if next == nil {
		return
	}
	e := s.entry(next.service)
	at, _ := find(e.slices, key.Name)
	e.slices = slices.Insert(e.slices, at, next)
	s.slices[key] = next
	s.mark(e)
	for _, p := range next.problems {
		if old == nil || !slices.Contains(old.problems, p) {
			s.problems = append(s.problems, p)
		}
	}
}

func find(list []*slice, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(s *slice, name string) int { return cmp.Compare(s.name, name) })
}

// setNode marks what depends on what changed. It looks at all services, and such
// changes are rare.
func (s *Store) setNode(n *node) {
	old := s.node
	if old.equal(n) {
		return
	}
	s.node, s.nodeDirty = *n, true
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		if s.t.podsKnown(&old, family) != s.t.podsKnown(n, family) {
			s.markAll(func(e *entry) bool { return e.svc != nil })
		}
	}
	if old.zone != n.zone {
		s.markAll(func(e *entry) bool { return slices.ContainsFunc(e.slices, (*slice).hinted) })
	}
	if old.primary != n.primary {
		s.markAll(func(e *entry) bool {
			return e.svc != nil && slices.ContainsFunc(e.svc.plans, func(p *plan) bool { return len(p.vips) > 0 })
		})
	}
}

func (s *Store) setRanges(name string, ranges []netip.Prefix) {
	s.nodeDirty = true
	if s.ranges[name] = ranges; ranges == nil {
		delete(s.ranges, name)
	}
}

func (s *Store) entry(key types.NamespacedName) *entry {
	e := s.services[key]
	if e == nil {
		e = &entry{key: key}
		s.services[key] = e
	}
	return e
}

func (s *Store) mark(e *entry) { s.dirty[e] = true }

func (s *Store) markAll(which func(*entry) bool) {
	for _, e := range s.services {
		if which(e) {
			s.mark(e)
		}
	}
}
