// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"net/netip"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// service is a service's place in its schedule. One that is removed is kept, with
// what it said last, as long as it has flows.
type service struct {
	svc      *lb.Service
	gone     bool
	pools    map[lb.Pools]*pool
	backends map[netip.AddrPort]*backend // the removed ones too, as long as they have flows
}

// pool is where one of a service's two stands in its schedule.
type pool struct {
	run *sched.Run
	at  sched.Position
}

// backend is a server of one service. One that is removed is parked with its
// counts, and there again when it is added again.
type backend struct {
	owner            *service
	in               lb.Backend // what was said last
	removed          bool
	active, inactive uint32 // flows
	overloaded       bool
	counters         dataplane.BackendCounters // but for the flows
}

// hashes reports whether the packet alone says which backend a pick finds.
func (s *service) hashes() bool {
	p := s.pools[lb.Cluster]
	return p != nil && p.run.Rule == sched.Hash
}

// set makes a service say what svc says; runs is nil if its schedules go on.
func (s *service) set(svc *lb.Service, runs map[lb.Pools]*sched.Run) {
	s.svc, s.gone = svc, false
	if runs == nil {
		return
	}
	s.pools = make(map[lb.Pools]*pool)
	for which, run := range runs {
		s.pools[which] = &pool{run, sched.Position{Next: run.Start}}
	}
	s.park()
	for _, in := range svc.Backends {
		b := s.backends[in.Addr]
		if b == nil {
			b = &backend{owner: s}
			s.backends[in.Addr] = b
		}
		b.in, b.removed = in, false
		b.judge()
	}
}

// remove is what becomes of a service that is no longer wanted.
func (s *service) remove() {
	s.gone, s.pools = true, nil
	s.park()
}

// park removes all backends.
func (s *service) park() {
	for _, b := range s.backends {
		b.removed = true
	}
}

// forget drops the removed backends that have no flows.
func (s *service) forget() {
	for addr, b := range s.backends {
		if b.removed && b.flows() == 0 {
			delete(s.backends, addr)
		}
	}
}

func (b *backend) flows() uint32 { return b.active + b.inactive }

// serves reports whether the backend's flows are in good hands.
func (b *backend) serves() bool { return !b.removed && !b.in.Unhealthy }

// count adds n flows of a state; judge has to follow.
func (b *backend) count(s state, n int) {
	if s.active() {
		b.active += uint32(n)
	} else {
		b.inactive += uint32(n)
	}
}

// judge says whether the backend is overloaded: from the upper threshold on, until
// it has fewer flows than the lower one. Between the two it stays what it was.
func (b *backend) judge() {
	lower := b.in.Lower
	if lower == 0 {
		lower = b.in.Upper - b.in.Upper/4
	}
	switch n := b.flows(); {
	case b.in.Upper == 0:
		b.overloaded = false
	case n >= b.in.Upper:
		b.overloaded = true
	case n < lower:
		b.overloaded = false
	}
}

// pick takes the next backend of a pool's schedule; nil: nobody can serve.
func (s *service) pick(p Packet, which lb.Pools) *backend {
	pool := s.pools[which]
	t := table{s, pool.run}
	i, ok := pool.run.Select(sched.Packet{Src: p.Src.Addr(), Dst: p.Dst.Addr(), SrcPort: p.Src.Port()}, &pool.at, t)
	if !ok {
		return nil
	}
	return t.backend(i)
}

// dropsEmpty reports whether packets are dropped, not refused, as the pool has
// nobody and others have.
func (s *service) dropsEmpty(which lb.Pools) bool {
	return which == lb.Local && len(s.svc.Pool(lb.Local)) == 0 && len(s.svc.Pool(lb.Cluster)) > 0
}

// table is what a pick sees of a pool's backends.
type table struct {
	*service
	run *sched.Run
}

func (t table) backend(i int) *backend { return t.backends[t.run.Backends[i].Addr] }

// Usable implements sched.Table.
func (t table) Usable(i int) bool {
	b := t.backend(i)
	return b.in.Usable() && !b.overloaded
}

// Load implements sched.Table.
func (t table) Load(i int) (active, inactive uint32) {
	b := t.backend(i)
	return b.active, b.inactive
}
