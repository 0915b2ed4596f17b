// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

// frontend is the one that a packet is to: its port's, else that of any port, else
// a node port.
func (m *model) frontend(p *pkt) (bpf.LBVip, bool) {
	k := vipKey{Addr: p.dst, Port: p.dport, Proto: p.proto}
	if v, ok := m.vips[k]; ok {
		if _, other := m.vips[m.nodePortKey(p)]; other && m.servesNodePorts(p.dst) {
			m.hit("frontend: goes before a node port")
		}
		return v, true
	}
	k.Port = 0
	if v, ok := m.vips[k]; ok {
		m.hit("frontend: of any port")
		return v, true
	}
	v, ok := m.vips[m.nodePortKey(p)]
	switch {
	case !ok:
		return v, false
	case !m.servesNodePorts(p.dst):
		m.hit("frontend: no node port, at this address")
		return bpf.LBVip{}, false
	}
	m.hit("frontend: a node port")
	return v, true
}

// nodePortKey is under what a packet's port would be a node port.
func (m *model) nodePortKey(p *pkt) vipKey {
	k := vipKey{Port: p.dport, Proto: p.proto}
	if p.v4 {
		k.Addr = mapped(make([]byte, 4))
	}
	return k
}

// newFlow begins a flow. True: the packet is to no frontend, and to no address of
// one.
func (m *model) newFlow(a arrival, p *pkt) (elsewhere bool) {
	if m.unmasquerade(p) { // a masquerade port may be a frontend's
		if m.nodePorts[p.dport] {
			m.hit("masquerade: a port that is a node port too")
		}
		return false
	}
	v, ok := m.frontend(p)
	switch {
	case ok:
		m.toFrontend(a, p, v)
	case m.vipBits.has(p.dst):
		m.unwanted(a, p, bpf.LBDropReasonDROP_UNKNOWN_PORT)
	default:
		m.hit("new flow: a node port's number, elsewhere")
		return true
	}
	return false
}

func (m *model) toFrontend(a arrival, p *pkt, v bpf.LBVip) {
	s := m.services[v.Service]
	begins := p.proto != protoTCP || isSYN(p.flags)
	if !begins && !m.resumes(p, s) {
		m.stray(a, p)
		return
	}
	if !m.admits(v, p.src) {
		m.drop(bpf.LBDropReasonDROP_SOURCE_RANGE)
		return
	}
	t := m.terms(a, p, v)
	id := m.choose(p, s, t.pool)
	if id == 0 || m.backends[id].Hash == 0 {
		if begins {
			m.nobody(a, p, s.in(t.pool))
			return
		}
		m.hit("resume: nobody is there")
		m.stray(a, p)
		return
	}
	f := m.lead(p, t, s, id)
	if s.once(p) {
		m.hit("one packet: goes its way")
		if p.part != later {
			m.stat(id).Connections++
		}
		m.forward(p, &entry{flow: f}, id)
		return
	}
	m.begin(a, p, f)
}

// begin enters a new flow, if there is room.
func (m *model) begin(a arrival, p *pkt, f flow) {
	e, r := m.insert(p, f)
	if r == flowsFull && m.makeRoom() {
		e, r = m.insert(p, f)
	}
	switch r {
	case bpf.LBDropReasonDROP_NONE:
		m.hit("new flow: to a VIP")
		m.stat(f.Backend).Connections++
		m.forward(p, e, f.Backend)
	case bpf.LBDropReasonDROP_REPLY_TAKEN:
		m.hit("refuse: no port at the backend")
		m.refuse(a, p, r, false)
	default:
		m.drop(r)
	}
}

// nobody: a pool has nobody for a packet.
func (m *model) nobody(a arrival, p *pkt, r *pool) {
	if r.count() == 0 && r.flags&emptyDrop != 0 {
		m.hit("drop: nobody is local, and others have backends")
		m.drop(bpf.LBDropReasonDROP_NO_LOCAL)
		return
	}
	m.hit("refuse: empty pool")
	m.refuse(a, p, bpf.LBDropReasonDROP_EMPTY_POOL, false)
}

// lead is a flow to a backend.
func (m *model) lead(p *pkt, t terms, s *service, id uint32) flow {
	b := m.backends[id]
	f := flow{Addr: b.Addr, Port: b.Port, Backend: id, ServiceHash: s.Hash, BackendHash: b.Hash, Flags: fHalfOpen}
	if b.Port == 0 {
		m.hit("new flow: keeps the port that was asked for")
		f.Port = p.dport
	}
	if t.masquerade || p.src == b.Addr {
		f.Flags |= fMasq
	}
	if s.affinity > 0 {
		f.Flags |= fAffinity
	}
	return f
}

// unwanted: nobody's packet to a VIP's address is passed to this machine's own
// services, if the address is its own, and must not go elsewhere if not.
func (m *model) unwanted(a arrival, p *pkt, r reason) {
	if _, isVIP := m.vips[vipKey{Addr: p.dst}]; !isVIP {
		m.nobodys(p, "pass: to the bit of a VIP's address, not a service's")
		return
	}
	if m.isAssigned(p.dst) {
		m.hit("pass: to a VIP's address, not a service's")
		m.pass(p)
		return
	}
	m.hit("unwanted: " + reasonNames[r])
	if r == bpf.LBDropReasonDROP_UNKNOWN_PORT {
		m.refuse(a, p, r, false)
	} else {
		m.drop(r)
	}
}

// nobodys is a packet to an address that no service has: it passes, by this rule,
// unless VIPs are taken from around it.
func (m *model) nobodys(p *pkt, rule string) {
	within := func(n network) bool { return n.has(p.dst) }
	switch {
	case !slices.ContainsFunc(m.serviceRanges, within):
		m.hit(rule)
		m.pass(p)
	case m.isAssigned(p.dst):
		m.hit("unallocated: passed, the address is ours")
		m.pass(p)
	default:
		m.hit("unallocated: dropped, and not: " + rule)
		m.drop(bpf.LBDropReasonDROP_UNALLOCATED)
	}
}

// resumes says whether TCP of no flow goes on where its hash leads.
func (m *model) resumes(p *pkt, s *service) bool {
	if s.pools[0].rule != ruleHash || p.part == later || p.flags&(tcpSYN|tcpRST|tcpACK) != tcpACK {
		return false
	}
	if p.ended {
		m.hit("resume: not what just ended")
		return false
	}
	m.hit("resume: by its hash")
	if m.isAssigned(p.dst) {
		m.hit("resume: the address is ours")
	}
	return true
}

// stray is TCP to a frontend that neither belongs to a flow nor begins one.
func (m *model) stray(a arrival, p *pkt) {
	switch {
	case m.isAssigned(p.dst):
		m.hit("stray: passed, the address is ours")
		m.pass(p)
	case p.flags&tcpRST != 0 || p.part != whole:
		m.hit("stray: dropped, no RST to a reset or a fragment")
		m.drop(bpf.LBDropReasonDROP_NO_FLOW)
	default:
		m.hit("refuse: RST")
		m.refuse(a, p, bpf.LBDropReasonDROP_NO_FLOW, true)
	}
}
