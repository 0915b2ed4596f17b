// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Read implements dataplane.Dataplane. A backend that is in no pool, or is not
// healthy and has to give up its connections, is not in the kernel.
func (d *Dataplane) Read() (*lb.Snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := newState(d.machine)
	if err := d.machine.load(s); err != nil {
		return nil, err
	}
	return s.snapshot()
}

// snapshot makes the services of what was loaded.
func (s *state) snapshot() (*lb.Snapshot, error) {
	var list []*lb.Service
	for id, keys := range s.owned {
		var all []*held
		for k := range keys {
			if h := s.held[k]; !h.gone && h.present {
				all = append(all, h)
			}
		}
		if len(all) == 0 {
			continue
		}
		slices.SortFunc(all, func(a, b *held) int { return a.compare(b.key) })
		svc, err := assemble(id, all)
		if err != nil {
			return nil, err
		}
		list = append(list, svc)
	}
	snap, err := lb.NewSnapshot(list...)
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return snap, nil
}

// assemble makes the service of its virtual services.
func assemble(id lb.ServiceID, all []*held) (*lb.Service, error) {
	svc, err := parseNote(all[0].note, id.Family)
	if err != nil {
		return nil, fmt.Errorf("read service %s: %w", id, err)
	}
	svc.Scheduler = all[0].scheduler
	if all[0].flags&flagPersistent != 0 {
		svc.Affinity.Timeout, svc.Affinity.Prefix = time.Duration(all[0].timeout)*time.Second, all[0].prefix
	}
	pools := make(map[lb.Pools][]dest)
	for _, h := range all {
		f := h.frontend()
		if !slices.Contains(svc.Frontends, f) {
			svc.Frontends = append(svc.Frontends, f)
		}
		pools[h.pool()] = h.dests
		if h.terms&restricted != 0 {
			svc.SourceRanges = slices.Clone(h.sources)
			slices.SortFunc(svc.SourceRanges, netip.Prefix.Compare)
		}
	}
	svc.Backends = join(pools)
	return &svc, nil
}

// pool is which one a virtual service's servers are.
func (h *held) pool() lb.Pools {
	if h.terms&(policyLocal|policyLocalExternal) == 0 || h.terms&dropOutsiders != 0 {
		return lb.Cluster
	}
	return lb.Local
}

// join makes one list of those of the pools.
func join(pools map[lb.Pools][]dest) (out []lb.Backend) {
	for _, which := range []lb.Pools{lb.Cluster, lb.Local} {
		other := lb.Cluster + lb.Local - which
		for _, d := range pools[which] {
			known := slices.ContainsFunc(out, func(b lb.Backend) bool { return b.Addr == d.addr })
			if known || d.isLeaving() {
				continue
			}
			b := d.backend()
			list, asked := pools[other]
			there := func(o dest) bool { return o.addr == d.addr && !o.isLeaving() }
			if asked && !slices.ContainsFunc(list, there) {
				b.Outside = other
			}
			out = append(out, b)
		}
	}
	return out
}

func (h *held) frontend() lb.Frontend {
	f := lb.Frontend{Addr: h.addr, Protocol: h.proto, Restricted: h.terms&restricted != 0}
	if h.terms&nodePort != 0 {
		any := netip.IPv4Unspecified()
		if h.addr.Addr().Is6() {
			any = netip.IPv6Unspecified()
		}
		f.Addr = netip.AddrPortFrom(any, h.addr.Port())
	}
	switch {
	case h.terms&policyLocal != 0:
		f.Policy = lb.PolicyLocal
	case h.terms&policyLocalExternal != 0:
		f.Policy = lb.PolicyLocalExternal
	}
	for m, bit := range masqueradeTerms {
		if h.terms&bit != 0 {
			f.Masquerade = m
		}
	}
	return f
}

// Counters implements dataplane.Dataplane. Those of backends that left their
// service are there as long as connections of theirs are; packets and connections
// are those of the kernel's last estimate, up to two seconds old.
func (d *Dataplane) Counters() (dataplane.Counters, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine.countersOf(d.state)
}

// countersOf reads the counters of what a state knows.
func (m *machine) countersOf(s *state) (dataplane.Counters, error) {
	drops, err := m.counters()
	if err != nil {
		return dataplane.Counters{}, err
	}
	c := dataplane.Counters{Backends: make(map[lb.BackendID]dataplane.BackendCounters), Drops: drops}
	for k, h := range s.held {
		if !h.present {
			continue
		}
		loads, err := m.loads(k)
		if err != nil {
			return c, fmt.Errorf("read the counters of %s: %w", k, err)
		}
		for i := range loads {
			id := lb.BackendID{Service: h.owner, Addr: loads[i].addr}
			b := c.Backends[id]
			loads[i].addTo(&b)
			c.Backends[id] = b
		}
	}
	return c, nil
}

func (l *load) addTo(b *dataplane.BackendCounters) {
	b.Active += l.active
	b.Inactive += l.inactive
	b.Connections += l.connections
	b.InPackets += l.inPackets
	b.InBytes += l.inBytes
	b.OutPackets += l.outPackets
	b.OutBytes += l.outBytes
	if l.weight > 0 && l.upper > 0 && l.active+l.inactive >= uint64(l.upper) {
		b.Overloaded = true
	}
}
