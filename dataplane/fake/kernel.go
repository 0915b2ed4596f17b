// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// Kernel is what outlives a process: services, flows, counters, and a clock
// that only Advance moves. Safe for concurrent use.
type Kernel struct {
	mu       sync.Mutex
	now      time.Duration // since NewKernel
	held     *lb.Snapshot
	services map[lb.ServiceID]*service
	vips     map[netip.Addr]bool
	local    map[netip.Addr]bool
	node     map[lb.Family]netip.Addr // what masquerading uses
	flows    map[tuple]*flow          // by the client's packets
	replies  map[tuple]*flow          // by the backend's, to the client
	returns  map[tuple]*flow          // by the backend's, to the node: masqueraded ones
	direct   map[tuple]bool           // by the backend's: clients' own connections
	stats    map[lb.BackendID]dataplane.BackendCounters
	drops    map[string]uint64
}

// service is a service's place in its schedule.
type service struct {
	svc *lb.Service
	run *sched.Run
	at  sched.Position
}

type tuple struct {
	src, dst netip.AddrPort
	proto    lb.Protocol
}

type flow struct {
	client, vip netip.AddrPort
	// source is the client as packets to the backend have it: with another
	// port if its own is not free there.
	source     netip.AddrPort
	masquerade bool
	masq       netip.AddrPort // stands for source once a packet left; else zero
	proto      lb.Protocol
	backend    lb.BackendID // without a service: a direct connection
	state      state
	replied    bool
	seen       time.Duration // last packet, either way
}

func (f *flow) forwardKey() tuple { return tuple{f.client, f.vip, f.proto} }
func (f *flow) replyKey() tuple   { return tuple{f.backend.Addr, f.source, f.proto} }
func (f *flow) returnKey() tuple  { return tuple{f.backend.Addr, f.masq, f.proto} }

// NewKernel returns one that serves nothing.
func NewKernel() *Kernel {
	return &Kernel{
		services: make(map[lb.ServiceID]*service),
		vips:     make(map[netip.Addr]bool),
		local:    make(map[netip.Addr]bool),
		flows:    make(map[tuple]*flow),
		node:     make(map[lb.Family]netip.Addr),
		replies:  make(map[tuple]*flow),
		returns:  make(map[tuple]*flow),
		direct:   make(map[tuple]bool),
		stats:    make(map[lb.BackendID]dataplane.BackendCounters),
		drops:    make(map[string]uint64),
	}
}

// AssignLocal says whether the address is one of the machine's own.
func (k *Kernel) AssignLocal(addr netip.Addr, assigned bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.local[addr] = assigned
}

// MasqueradeWith says which of the machine's addresses masquerading uses; the
// zero netip.Addr: none of that family.
func (k *Kernel) MasqueradeWith(family lb.Family, addr netip.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.node[family] = addr
}

// Advance moves the clock and ends the flows that are due.
func (k *Kernel) Advance(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now += d
	for _, f := range k.flows {
		if k.now-f.seen > f.state.timeout() {
			k.end(f)
		}
	}
	k.forgetStats()
}

func (k *Kernel) end(f *flow) {
	delete(k.flows, f.forwardKey())
	delete(k.replies, f.replyKey())
	if f.masq.IsValid() {
		delete(k.returns, f.returnKey())
	}
}

func (k *Kernel) snapshot() *lb.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// backend returns the backend as its service has it now.
func (k *Kernel) backend(id lb.BackendID) (lb.Backend, bool) {
	svc := k.held.Service(id.Service)
	if svc == nil {
		return lb.Backend{}, false
	}
	i := slices.IndexFunc(svc.Backends, func(b lb.Backend) bool { return b.Addr == id.Addr })
	if i < 0 {
		return lb.Backend{}, false
	}
	return svc.Backends[i], true
}

// commit makes next the held snapshot, but for the services in failed, which
// stay as they are in held. It adds to failed what stands in another's way.
func (k *Kernel) commit(held, next *lb.Snapshot, diff lb.Diff, failed map[lb.ServiceID]error) dataplane.Report {
	k.mu.Lock()
	defer k.mu.Unlock()
	rep := dataplane.Report{Failed: failed}
	compiled := k.compileAll(diff, failed)
	for blocked(held, diff, failed) {
	}
	merged, err := lb.NewSnapshot(merge(held, next, failed)...)
	if err != nil {
		return dataplane.Report{Err: fmt.Errorf("apply snapshot: %w", err)}
	}
	for _, svc := range diff.Added {
		if failed[svc.ID] == nil {
			k.services[svc.ID] = compiled[svc.ID]
			rep.Added++
		}
	}
	for _, c := range diff.Changed {
		if failed[c.New.ID] == nil {
			k.services[c.New.ID] = compiled[c.New.ID]
			rep.Changed++
		}
	}
	for _, svc := range diff.Removed {
		if failed[svc.ID] == nil {
			delete(k.services, svc.ID)
			rep.Removed++
		}
	}
	k.held = merged
	k.findVIPs()
	k.forgetStats()
	return rep
}

// compileAll makes the schedules of what is new or changed, and adds to failed
// what has none.
func (k *Kernel) compileAll(diff lb.Diff, failed map[lb.ServiceID]error) map[lb.ServiceID]*service {
	compiled := make(map[lb.ServiceID]*service)
	compile := func(svc *lb.Service) {
		if failed[svc.ID] != nil {
			return
		}
		s, err := k.compile(svc)
		if err != nil {
			failed[svc.ID] = err
			return
		}
		compiled[svc.ID] = s
	}
	for _, svc := range diff.Added {
		compile(svc)
	}
	for _, c := range diff.Changed {
		compile(c.New)
	}
	return compiled
}

// compile makes the schedule of a service that is new or changed; it goes on
// where it was.
func (k *Kernel) compile(svc *lb.Service) (*service, error) {
	old := k.services[svc.ID]
	if old == nil {
		old = &service{}
	}
	run, err := sched.Compile(svc, old.run, old.at)
	if err != nil {
		return nil, fmt.Errorf("schedule service %s: %w", svc.ID, err)
	}
	return &service{svc: svc, run: run, at: sched.Position{Next: run.Start}}, nil
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

func (k *Kernel) findVIPs() {
	clear(k.vips)
	for _, s := range k.services {
		for _, f := range s.svc.Frontends {
			k.vips[f.Addr.Addr()] = true
		}
	}
}

// forgetStats drops the counters of backends that are gone and have no flows,
// as an id that is free for another backend.
func (k *Kernel) forgetStats() {
	if len(k.stats) == 0 {
		return
	}
	used := make(map[lb.BackendID]bool, len(k.stats))
	for _, f := range k.flows {
		used[f.backend] = true
	}
	for id := range k.stats {
		if _, ok := k.backend(id); !ok && !used[id] {
			delete(k.stats, id)
		}
	}
}

func (k *Kernel) counters() dataplane.Counters {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := dataplane.Counters{Backends: make(map[lb.BackendID]dataplane.BackendCounters), Drops: make(map[string]uint64)}
	for id, s := range k.services {
		for _, b := range s.svc.Backends {
			bid := lb.BackendID{Service: id, Addr: b.Addr}
			c.Backends[bid] = k.stats[bid]
		}
	}
	for _, f := range k.flows {
		if f.backend.Service == (lb.ServiceID{}) {
			continue
		}
		b, ok := c.Backends[f.backend]
		if !ok {
			b = k.stats[f.backend]
		}
		if f.state.active() {
			b.Active++
		} else {
			b.Inactive++
		}
		c.Backends[f.backend] = b
	}
	for reason, n := range k.drops {
		c.Drops[reason] = n
	}
	return c
}

// table is what a pick sees of a service's backends.
type table struct {
	*Kernel
	svc *lb.Service
}

// Usable implements sched.Table.
func (t table) Usable(i int) bool { return t.svc.Backends[i].Usable() }

// Load implements sched.Table.
func (t table) Load(i int) (active, inactive uint32) {
	id := lb.BackendID{Service: t.svc.ID, Addr: t.svc.Backends[i].Addr}
	for _, f := range t.flows {
		switch {
		case f.backend != id:
		case f.state.active():
			active++
		default:
			inactive++
		}
	}
	return active, inactive
}
