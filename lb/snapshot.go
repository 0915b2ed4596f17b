// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// Snapshot is an immutable set of services: one desired state. The zero of
// *Snapshot (nil) is the empty set. Safe for concurrent use.
//
// Snapshots of which one was made from the other share what did not change, and
// Update and Compare cost what did.
type Snapshot struct {
	services  [shards]map[ServiceID]*Service
	frontends [shards]map[Frontend]ServiceID // by Key
	count     int
	node      Node
}

// shards is a compromise: an update copies an array of as many pointers, and of
// each map that it touches all that are in there.
const shards = 512

func (id ServiceID) shard() uint64 { return id.Hash() % shards }

func (f Frontend) shard() uint64 {
	a := f.Addr.Addr().As16()
	return mix(fnv(fnvOffset, a[:])^uint64(f.Addr.Port())<<8^uint64(f.Protocol)) % shards
}

// Node is what a snapshot says of this machine. The zero Node says nothing.
type Node struct {
	// NodePorts are where node ports are served: at those of the machine's
	// addresses that are in one of these, as they come and go.
	NodePorts []netip.Prefix
	// Pods are where this machine's pods have their addresses, PodDevices the
	// names of devices by which they send, as patterns of path.Match. Who matches
	// either is a pod of this machine.
	Pods       []netip.Prefix
	PodDevices []string
	// ServiceRanges are where VIPs are taken from: packets to an address in them
	// that no service has are dropped, lest they wander.
	ServiceRanges []netip.Prefix
}

// Equal reports whether two say the same, in the same order.
func (n *Node) Equal(m *Node) bool {
	return slices.Equal(n.NodePorts, m.NodePorts) && slices.Equal(n.Pods, m.Pods) &&
		slices.Equal(n.PodDevices, m.PodDevices) && slices.Equal(n.ServiceRanges, m.ServiceRanges)
}

// Node returns what the snapshot says of this machine. It must not be changed.
func (s *Snapshot) Node() *Node {
	if s == nil {
		return &Node{}
	}
	return &s.node
}

// WithNode returns a snapshot of the same services that says this of the machine.
func (s *Snapshot) WithNode(n Node) *Snapshot {
	out := new(Snapshot)
	if s != nil {
		*out = *s
	}
	out.node = n
	return out
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
	seen := make(map[ServiceID]bool, len(services))
	for _, svc := range services {
		if seen[svc.ID] {
			return nil, &ConflictError{First: svc.ID, Second: svc.ID}
		}
		seen[svc.ID] = true
	}
	return (*Snapshot)(nil).Update(services, nil)
}

// Update returns a snapshot without the services in remove, and with those in set:
// in the place of one with the same id, or beside the others. It fails with a
// *ConflictError when two would have one frontend. What set has is given away.
func (s *Snapshot) Update(set []*Service, remove []ServiceID) (*Snapshot, error) {
	u := update{out: new(Snapshot)}
	if s != nil {
		*u.out = *s
	}
	for _, id := range remove {
		u.remove(id)
	}
	for _, svc := range set {
		u.remove(svc.ID)
	}
	for _, svc := range set {
		if err := u.add(svc); err != nil {
			return nil, err
		}
	}
	return u.out, nil
}

// update is a snapshot in the making, and which of its maps are its own.
type update struct {
	out                 *Snapshot
	services, frontends [shards]bool
}

func (u *update) servicesOf(id ServiceID) map[ServiceID]*Service {
	i := id.shard()
	if !u.services[i] {
		u.services[i] = true
		u.out.services[i] = cloned(u.out.services[i])
	}
	return u.out.services[i]
}

func (u *update) frontendsOf(f Frontend) map[Frontend]ServiceID {
	i := f.shard()
	if !u.frontends[i] {
		u.frontends[i] = true
		u.out.frontends[i] = cloned(u.out.frontends[i])
	}
	return u.out.frontends[i]
}

func cloned[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

func (u *update) remove(id ServiceID) {
	svc := u.out.Service(id)
	if svc == nil {
		return
	}
	for _, f := range svc.Frontends {
		delete(u.frontendsOf(f), f.Key())
	}
	delete(u.servicesOf(id), id)
	u.out.count--
}

func (u *update) add(svc *Service) error {
	for _, f := range svc.Frontends {
		owners := u.frontendsOf(f)
		if first, ok := owners[f.Key()]; ok {
			return &ConflictError{First: first, Second: svc.ID, Frontend: f.Key()}
		}
		owners[f.Key()] = svc.ID
	}
	u.servicesOf(svc.ID)[svc.ID] = svc
	u.out.count++
	return nil
}

// Len returns the number of services.
func (s *Snapshot) Len() int {
	if s == nil {
		return 0
	}
	return s.count
}

// Service returns the service with this id, or nil.
func (s *Snapshot) Service(id ServiceID) *Service {
	if s == nil {
		return nil
	}
	return s.services[id.shard()][id]
}

// Lookup returns the service that owns the frontend with this key, or nil.
func (s *Snapshot) Lookup(f Frontend) *Service {
	if s == nil {
		return nil
	}
	id, ok := s.frontends[f.shard()][f.Key()]
	if !ok {
		return nil
	}
	return s.Service(id)
}

// All yields the services in the order of their ids.
func (s *Snapshot) All() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		all := make([]*Service, 0, s.Len())
		for svc := range s.Each() {
			all = append(all, svc)
		}
		slices.SortFunc(all, byID)
		for _, svc := range all {
			if !yield(svc) {
				return
			}
		}
	}
}

// Each yields the services in any order, which costs less.
func (s *Snapshot) Each() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		if s == nil {
			return
		}
		for _, m := range s.services {
			for _, svc := range m {
				if !yield(svc) {
					return
				}
			}
		}
	}
}

func byID(a, b *Service) int { return a.ID.Compare(b.ID) }

// Diff is what leads from one snapshot to another. Each list is sorted by id.
type Diff struct {
	Added, Removed []*Service
	Changed        []Change
}

// Change is one service before and after.
type Change struct{ Old, New *Service }

// Empty reports whether nothing differs.
func (d *Diff) Empty() bool { return len(d.Added)+len(d.Removed)+len(d.Changed) == 0 }

// Compare returns what changes from s to next. Services are compared by pointer: a
// source that keeps the pointers of unchanged services makes the diff minimal, and
// one that makes its snapshots by Update makes it cheap.
func (s *Snapshot) Compare(next *Snapshot) Diff {
	if s == nil {
		s = new(Snapshot)
	}
	if next == nil {
		next = new(Snapshot)
	}
	var d Diff
	for i := range shards {
		if !same(s.services[i], next.services[i]) {
			d.compare(s.services[i], next.services[i])
		}
	}
	slices.SortFunc(d.Added, byID)
	slices.SortFunc(d.Removed, byID)
	slices.SortFunc(d.Changed, func(a, b Change) int { return byID(a.New, b.New) })
	return d
}

// same reports whether two maps are one.
func same(a, b map[ServiceID]*Service) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

func (d *Diff) compare(old, next map[ServiceID]*Service) {
	for id, n := range next {
		switch o := old[id]; {
		case o == nil:
			d.Added = append(d.Added, n)
		case o != n:
			d.Changed = append(d.Changed, Change{o, n})
		}
	}
	for id, o := range old {
		if next[id] == nil {
			d.Removed = append(d.Removed, o)
		}
	}
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
	out := &Snapshot{frontends: s.frontends, count: s.count, node: s.node}
	for i, m := range s.services {
		if same(m, prev.shardOf(i)) {
			out.services[i] = m
			continue
		}
		out.services[i] = make(map[ServiceID]*Service, len(m))
		for id, svc := range m {
			if old := prev.Service(id); old != nil && old.Equal(svc) {
				svc = old
			}
			out.services[i][id] = svc
		}
	}
	return out
}

func (s *Snapshot) shardOf(i int) map[ServiceID]*Service {
	if s == nil {
		return nil
	}
	return s.services[i]
}
