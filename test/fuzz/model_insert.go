// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/waggle-lb/waggle/bpf"
)

// portAttempts is how many ports are tried for a flow.
const portAttempts = 128

const (
	noReason   = bpf.LBDropReasonDROP_NONE
	flowsFull  = bpf.LBDropReasonDROP_FLOWS_FULL
	replyTaken = bpf.LBDropReasonDROP_REPLY_TAKEN
	busy       = bpf.LBDropReasonDROP_BUSY
	noPort     = bpf.LBDropReasonDROP_NO_PORT
)

// replyEntry is what E4 of a flow holds: back to the address that was asked.
func replyEntry(p *pkt, f flow) flow {
	f.Addr, f.Port, f.State = p.dst, p.dport, stRepl
	f.Flags &^= fHalfOpen
	return f
}

// insert makes a flow for a packet: reply entry, forward entry, count.
func (m *model) insert(p *pkt, f flow) (*entry, reason) {
	f.State, f.Seen = stUDP, m.now
	if p.proto == protoTCP {
		f.State = m.table.next(uint8(bpf.LBFlowStateSTATE_NONE), p.flags, "in")
	}
	k := p.key(e1)
	r := m.insertReply(p, k, f)
	if r == replyTaken {
		m.hit("insert: the reply tuple is taken")
		f, r = m.resource(p, k, f)
	}
	if r != noReason {
		return nil, r
	}
	switch m.place(k, f) {
	case placedFull:
		m.hit("insert: no room for the forward entry")
		m.endReplies(k, &f)
		return nil, flowsFull
	case placedTaken:
		m.broken("a new flow's forward entry is live")
		return nil, busy
	}
	if f.Flags&fDirect == 0 {
		m.count(f.Backend, f.State, 1)
	}
	if f.Flags&fHalfOpen != 0 {
		m.enterRing(k)
	}
	return m.flows[k], noReason
}

// insertReply enters E4. One that leads to the same VIP will do.
func (m *model) insertReply(p *pkt, k key, f flow) reason {
	r := replyOf(k, &f)
	if m.direct[r] {
		m.hit("insert: a direct connection has the port")
		return replyTaken
	}
	v := replyEntry(p, f)
	switch m.place(r, v) {
	case placedOK:
		return noReason
	case placedFull:
		m.hit("insert: no room for the reply entry")
		return flowsFull
	}
	old := m.flows[r]
	if old.Addr != p.dst || old.Port != p.dport || old.Flags&fResourced != 0 {
		return replyTaken
	}
	m.hit("insert: a reply entry of the same VIP is kept")
	old.Seen, old.Flags, old.Backend, old.ServiceHash, old.BackendHash = v.Seen, v.Flags, v.Backend, v.ServiceHash, v.BackendHash
	return noReason
}

// nthPort is the n-th that is tried.
func (m *model) nthPort(n uint32) uint16 {
	if len(m.ports) == 0 {
		return 0
	}
	return m.ports[n%uint32(len(m.ports))]
}

// resource gives a flow another client port towards its backend.
func (m *model) resource(p *pkt, k key, f flow) (flow, reason) {
	if p.proto == protoSCTP {
		m.hit("resource: SCTP keeps its port")
		return f, replyTaken
	}
	f.Flags |= fResourced
	r, v := replyOf(k, &f), replyEntry(p, f)
	got := placedTaken
	for i := uint32(0); got == placedTaken && i < portAttempts; i++ {
		if r.Dport = m.nthPort(m.start + i); r.Dport == 0 {
			break
		}
		got = m.place(r, v)
	}
	switch got {
	case placedTaken:
		m.hit("resource: no port is free")
		return f, replyTaken
	case placedFull:
		m.hit("resource: no room")
		return f, flowsFull
	}
	v.Addr, v.Port = p.src, p.sport
	got = m.place(at(r, r4), v)
	if got == placedOK {
		v.Port = r.Dport
		if got = m.place(at(k, r1), v); got != placedOK {
			m.discard(m.flows[at(r, r4)])
		}
	}
	switch got {
	case placedOK:
		m.hit("resource: another client port")
		return f, noReason
	case placedFull:
		m.hit("resource: no room for R1 or R4")
		m.discard(m.flows[r])
		return f, flowsFull
	}
	m.broken("R1 or R4 of a flow that is not there is live: %s", m.around(k, at(k, r1), r, at(r, r4)))
	m.discard(m.flows[r])
	return f, busy
}
