// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Kernel is what outlives a process: services, flows, counters, and a clock
// that only Advance moves. Safe for concurrent use.
type Kernel struct {
	mu       sync.Mutex
	now      time.Duration // since NewKernel
	held     *lb.Snapshot
	services map[lb.ServiceID]*service // removed ones too, as long as they have flows
	vips     map[netip.Addr]bool
	local    map[netip.Addr]bool
	node     map[lb.Family]netip.Addr // what masquerading uses
	flows    map[tuple]*flow          // by the client's packets
	replies  map[tuple]*flow          // by the backend's, to the client
	returns  map[tuple]*flow          // by the backend's, to the node: masqueraded ones
	direct   map[tuple]bool           // by the backend's: clients' own connections
	affinity map[client]*kept
	drops    map[string]uint64
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
	server     netip.AddrPort
	masquerade bool
	masq       netip.AddrPort // stands for source once a packet left; else zero
	proto      lb.Protocol
	backend    *backend // nil: a direct connection
	affinity   bool     // keeps its client at the backend
	state      state
	replied    bool
	seen       time.Duration // last packet, either way
}

func (f *flow) forwardKey() tuple { return tuple{f.client, f.vip, f.proto} }
func (f *flow) replyKey() tuple   { return tuple{f.server, f.source, f.proto} }
func (f *flow) returnKey() tuple  { return tuple{f.server, f.masq, f.proto} }

// become moves a flow to another state, and its count with it.
func (f *flow) become(s state) {
	if b := f.backend; b != nil && s != f.state {
		b.count(f.state, -1)
		b.count(s, 1)
		b.judge()
	}
	f.state = s
}

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
		affinity: make(map[client]*kept),
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
		k.prolong(f)
	}
	for _, f := range k.flows {
		if f.isLost() || k.now-f.seen > f.state.timeout() {
			k.end(f)
		}
	}
	k.forget()
}

// isLost says whether a flow ends as its backend is gone.
func (f *flow) isLost() bool {
	b := f.backend
	return b != nil && !b.serves() && b.owner.svc.Lost == lb.LostReset
}

func (k *Kernel) end(f *flow) {
	delete(k.flows, f.forwardKey())
	delete(k.replies, f.replyKey())
	if f.masq.IsValid() {
		delete(k.returns, f.returnKey())
	}
	if b := f.backend; b != nil {
		b.count(f.state, -1)
		b.judge()
	}
}

func (k *Kernel) snapshot() *lb.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

func (k *Kernel) findVIPs() {
	clear(k.vips)
	for svc := range k.held.All() {
		for _, f := range svc.Frontends {
			if !f.IsNodePort() {
				k.vips[f.Addr.Addr()] = true
			}
		}
	}
}

// forget drops the removed backends and services that have no flows, as ids that
// are free for others.
func (k *Kernel) forget() {
	for id, s := range k.services {
		s.forget()
		if s.gone && len(s.backends) == 0 {
			delete(k.services, id)
		}
	}
}

func (k *Kernel) counters() dataplane.Counters {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := dataplane.Counters{Backends: make(map[lb.BackendID]dataplane.BackendCounters), Drops: make(map[string]uint64)}
	for id, s := range k.services {
		for addr, b := range s.backends {
			n := b.counters
			n.Active, n.Inactive, n.Overloaded = uint64(b.active), uint64(b.inactive), b.overloaded
			c.Backends[lb.BackendID{Service: id, Addr: addr}] = n
		}
	}
	for reason, n := range k.drops {
		c.Drops[reason] = n
	}
	return c
}

// lookup returns the frontend for this address and port, and its service: its own,
// else one for any port, else a node port; nil: none.
func (k *Kernel) lookup(addr netip.AddrPort, proto lb.Protocol) (lb.Frontend, *service) {
	places := []netip.AddrPort{addr, netip.AddrPortFrom(addr.Addr(), 0)}
	if k.local[addr.Addr()] && !addr.Addr().IsLoopback() && within(addr.Addr(), k.held.Node().NodePorts) {
		unspecified := netip.IPv6Unspecified()
		if addr.Addr().Is4() {
			unspecified = netip.IPv4Unspecified()
		}
		places = append(places, netip.AddrPortFrom(unspecified, addr.Port()))
	}
	for _, at := range places {
		want := lb.Frontend{Addr: at, Protocol: proto}
		if svc := k.held.Lookup(want); svc != nil {
			i := slices.IndexFunc(svc.Frontends, func(f lb.Frontend) bool { return f.Key() == want })
			return svc.Frontends[i], k.services[svc.ID]
		}
	}
	return lb.Frontend{}, nil
}

func within(a netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// terms says from which pool a frontend's client gets its backend, and whether it is
// masqueraded.
func (k *Kernel) terms(f lb.Frontend, client netip.Addr) (which lb.Pools, masquerade bool) {
	pod, node := within(client, k.held.Node().Pods), k.local[client]
	which = lb.Local
	if f.Policy == lb.PolicyCluster || f.Policy == lb.PolicyLocalExternal && (pod || node) {
		which = lb.Cluster
	}
	switch f.Masquerade {
	case lb.MasqueradeAlways:
		masquerade = true
	case lb.MasqueradeOutsiders:
		masquerade = !pod
	case lb.MasqueradeNode:
		masquerade = node && !pod
	}
	return which, masquerade
}
