// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	affinityExtension = 60 // seconds that a live flow gives
	affinityAhead     = 5  // seconds before the end at which it does
)

// clientOf is under what a service knows a client: so many of its address's
// bits.
func (s *service) clientOf(a addr) affinityKey {
	p, err := netip.AddrFrom16(a).Prefix(int(s.prefix))
	if err != nil {
		panic(err) // a prefix of more than 128 bits
	}
	return affinityKey{Client: p.Addr().As16(), ServiceHash: s.Hash}
}

// once says whether a packet is scheduled by itself, and nothing kept of it.
func (s *service) once(p *pkt) bool { return s.has(onePacket) && p.proto == protoUDP }

// choose finds the backend of a new flow: the client's, or a pick. 0: nobody.
func (m *model) choose(p *pkt, s *service, which bpf.LBPools) uint32 {
	var d *pieces
	if p.part != whole && s.once(p) {
		d = m.datagrams[p.datagram()]
	}
	if d != nil && p.part == later {
		m.hit("one packet: a later fragment goes with its first")
		return d.backend
	}
	var id uint32
	if s.affinity > 0 {
		id = m.affine(p, s, which)
	}
	if id == 0 {
		id = m.pick(m.poolOf(s, which), p)
		if id != 0 && s.affinity > 0 {
			m.hit("affinity: a client is remembered")
			m.affinity[s.clientOf(p.src)] = &affinityEntry{Backend: id, BackendHash: m.backends[id].Hash, Expires: m.in(s.affinity)}
		}
	}
	if d != nil {
		m.hit("one packet: a first fragment leads the others")
		d.backend = id
	}
	return id
}

// poolOf is the pool that a pick is from.
func (m *model) poolOf(s *service, which bpf.LBPools) *pool {
	switch r := s.in(which); {
	case which == poolCluster:
		return r
	case r == &s.pools[0]:
		m.hit("pick: of all, as nothing local is published")
		return r
	default:
		m.hit("pick: of the local ones")
		return r
	}
}

func (m *model) in(seconds uint32) uint64 { return m.now64 + uint64(seconds)*hz }

// affine is the backend at which a client is kept; 0: it may go anywhere.
func (m *model) affine(p *pkt, s *service, which bpf.LBPools) uint32 {
	a := m.affinity[s.clientOf(p.src)]
	if a == nil {
		return 0
	}
	end := a.Expires
	a.Expires = 0 // it has ended, unless it goes on below
	if m.now64 >= end {
		m.hit("affinity: is over")
		return 0
	}
	if m.backends[a.Backend].Hash != a.BackendHash {
		id, ok := m.ids[a.BackendHash]
		if !ok {
			m.hit("affinity: the backend is gone")
			return 0
		}
		m.hit("affinity: a hint is mended")
		a.Backend = id
	}
	switch b := m.backends[a.Backend]; {
	case b.State != stActive:
		m.hit("affinity: the backend serves no more")
		return 0
	case b.Outside&uint8(which) != 0:
		m.hit("affinity: the backend is not in the pool")
		return 0
	case b.Weight == 0 && !s.has(keepQuiesced):
		m.hit("affinity: the backend is quiesced")
		return 0
	case b.Weight == 0:
		m.hit("affinity: keeps the client at a quiesced backend")
	case m.isOverloaded(a.Backend):
		m.hit("affinity: keeps the client at an overloaded backend")
	}
	m.hit("affinity: keeps the client")
	a.Expires = m.in(s.affinity)
	return a.Backend
}

// affinityOf is what a flow keeps alive; nil: gone, or it leads elsewhere now.
func (m *model) affinityOf(f *entry) *affinityEntry {
	b, there := m.backendOf(f)
	s := m.services[b.Service]
	if !there || s == nil {
		return nil
	}
	k := s.clientOf(f.key.Saddr)
	k.ServiceHash = f.ServiceHash
	a := m.affinity[k]
	if a != nil && a.BackendHash != f.BackendHash {
		m.hit("affinity: leads elsewhere than an older flow")
		return nil
	}
	return a
}

// assure notes that a backend answered a flow.
func (m *model) assure(f *entry) {
	if a := m.affinityOf(f); a != nil {
		m.hit("affinity: is assured")
		a.Assured = 1
	}
}

// prolong puts off the end of what a live flow keeps alive.
func (m *model) prolong(f *entry) {
	a := m.affinityOf(f)
	if a == nil || a.Expires == 0 || a.Expires > m.in(affinityAhead) {
		return
	}
	if b, _ := m.backendOf(f); m.services[b.Service].has(lapses) {
		m.hit("affinity: lapses though a flow lives")
		return
	}
	m.hit("affinity: is put off as a flow lives")
	a.Expires = max(a.Expires, m.now64) + affinityExtension*hz
}

// nearEnd says whether a look at the clock now, or by the sweeper then, could
// find an affinity's end on either side of it.
func (m *model) nearEnd(now, then uint64) bool {
	for _, a := range m.affinity {
		for _, t := range []uint64{now, then, then + affinityAhead*hz} {
			if near64(a.Expires, t) {
				return true
			}
		}
	}
	return false
}
