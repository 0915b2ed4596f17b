// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
)

// Snapshot is an immutable set of services: one desired state. The zero of
// *Snapshot (nil) is the empty set. Safe for concurrent use.
type Snapshot struct {
	services  map[ServiceID]*Service
	frontends map[Frontend]ServiceID
}

// ConflictError says that two services want one name or one frontend.
type ConflictError struct {
	First, Second ServiceID
	// Frontend is the contested one; zero if the names are equal.
	Frontend Frontend
}

func (e *ConflictError) Error() string {
	if e.Frontend == (Frontend{}) {
		return fmt.Sprintf("duplicate service %s", e.First)
	}
	return fmt.Sprintf("duplicate VIP %s: service %s has it already, service %s wants it too", e.Frontend, e.First, e.Second)
}

// NewSnapshot makes a snapshot of the given services, in any order. It fails
// with a *ConflictError when a name or a frontend appears twice. The caller
// gives the services away: they must not change afterwards.
func NewSnapshot(services ...*Service) (*Snapshot, error) {
	s := &Snapshot{
		services:  make(map[ServiceID]*Service, len(services)),
		frontends: make(map[Frontend]ServiceID, len(services)),
	}
	for _, svc := range services {
		if _, ok := s.services[svc.ID]; ok {
			return nil, &ConflictError{First: svc.ID, Second: svc.ID}
		}
		s.services[svc.ID] = svc
		for _, f := range svc.Frontends {
			if first, ok := s.frontends[f]; ok {
				return nil, &ConflictError{First: first, Second: svc.ID, Frontend: f}
			}
			s.frontends[f] = svc.ID
		}
	}
	return s, nil
}

// Len returns the number of services.
func (s *Snapshot) Len() int {
	if s == nil {
		return 0
	}
	return len(s.services)
}

// Service returns the service with this id, or nil.
func (s *Snapshot) Service(id ServiceID) *Service {
	if s == nil {
		return nil
	}
	return s.services[id]
}

// Lookup returns the service that owns the frontend, or nil.
func (s *Snapshot) Lookup(f Frontend) *Service {
	if s == nil {
		return nil
	}
	return s.services[s.frontends[f]]
}

// All yields the services in the order of their ids.
func (s *Snapshot) All() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		if s == nil {
			return
		}
		for _, id := range slices.SortedFunc(maps.Keys(s.services), ServiceID.Compare) {
			if !yield(s.services[id]) {
				return
			}
		}
	}
}

// Diff is what leads from one snapshot to another. Each list is sorted by id.
type Diff struct {
	Added, Removed []*Service
	Changed        []Change
}

// Change is one service before and after.
type Change struct{ Old, New *Service }

// Empty reports whether nothing differs.
func (d *Diff) Empty() bool { return len(d.Added)+len(d.Removed)+len(d.Changed) == 0 }

// Compare returns what changes from s to next. Services are compared by
// pointer, so the cost is one map lookup a service; a source that keeps
// pointers of unchanged services makes the diff minimal.
func (s *Snapshot) Compare(next *Snapshot) Diff {
	var d Diff
	if next != nil {
		for id, n := range next.services {
			switch o := s.Service(id); {
			case o == nil:
				d.Added = append(d.Added, n)
			case o != n:
				d.Changed = append(d.Changed, Change{o, n})
			}
		}
	}
	if s != nil {
		for id, o := range s.services {
			if next.Service(id) == nil {
				d.Removed = append(d.Removed, o)
			}
		}
	}
	byID := func(a, b *Service) int { return a.ID.Compare(b.ID) }
	slices.SortFunc(d.Added, byID)
	slices.SortFunc(d.Removed, byID)
	slices.SortFunc(d.Changed, func(a, b Change) int { return byID(a.New, b.New) })
	return d
}

// Equal reports whether two services say the same. Order of backends matters,
// order of frontends does not.
func (s *Service) Equal(t *Service) bool {
	if !s.alike(t) || !slices.Equal(s.Backends, t.Backends) || len(s.Frontends) != len(t.Frontends) {
		return false
	}
	a := slices.SortedFunc(slices.Values(s.Frontends), Frontend.Compare)
	b := slices.SortedFunc(slices.Values(t.Frontends), Frontend.Compare)
	return slices.Equal(a, b)
}

// alike compares all but the lists; by reflection, so that no field is forgotten.
func (s *Service) alike(t *Service) bool {
	a, b := *s, *t
	a.Frontends, a.Backends, b.Frontends, b.Backends = nil, nil, nil, nil
	return reflect.DeepEqual(a, b)
}

// Sharing returns a snapshot that says the same as s, but uses prev's pointer
// for every service that prev has with equal content.
func (s *Snapshot) Sharing(prev *Snapshot) *Snapshot {
	out := &Snapshot{services: make(map[ServiceID]*Service, s.Len()), frontends: s.frontends}
	for id, svc := range s.services {
		if old := prev.Service(id); old != nil && old.Equal(svc) {
			svc = old
		}
		out.services[id] = svc
	}
	return out
}
