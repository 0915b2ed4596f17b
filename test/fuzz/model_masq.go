// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

// masquerade, at egress to a backend. False: nothing of the kind.
func (m *model) masquerade(a arrival, p *pkt) bool {
	k := p.key(e2)
	if e := m.get(k); e != nil {
		m.hit("masquerade: of a known flow")
		p.rewrite(source, e.Addr, e.Port)
		m.pass(p)
		return true
	}
	r := m.get(answers(k, e4))
	if r == nil || r.Flags&fMasq == 0 {
		return false
	}
	to := a.dev.addr4
	if !p.v4 {
		to = a.dev.addr6
	}
	if to == (addr{}) {
		m.hit("masquerade: no address")
		m.drop(bpf.LBDropReasonDROP_NO_ADDRESS)
		return true
	}
	in := key{Saddr: p.dst, Daddr: to, Sport: p.dport, Proto: p.proto, Position: uint8(e3)}
	v := r.flow
	v.Addr, v.Port, v.State, v.Flags, v.Seen = p.src, p.sport, stRepl, fMasq, m.now
	switch m.masqueradePort(&in, v) {
	case placedFull:
		m.hit("masquerade: no room")
		m.drop(flowsFull)
		return true
	case placedTaken:
		m.hit("masquerade: no port is free")
		m.drop(noPort)
		return true
	}
	v.Addr, v.Port = to, in.Dport
	got := m.place(k, v)
	if got == placedFull && m.makeRoom() {
		got = m.place(k, v)
	}
	switch got {
	case placedFull:
		m.hit("masquerade: no room for E2")
		m.discard(m.flows[in])
		m.drop(flowsFull)
	case placedTaken:
		m.broken("E2 of a flow to be masqueraded is another's")
		m.drop(busy)
	default:
		m.hit("masquerade: a new flow")
		p.rewrite(source, v.Addr, v.Port)
		m.pass(p)
	}
	return true
}

// masqueradePort enters E3 under the first port that is free: the client's own,
// then those that are listed; those that were just closed last.
func (m *model) masqueradePort(in *key, v flow) placed {
	own := in.Proto == protoSCTP || slices.Contains(m.ports, v.Port)
	if own {
		if got := m.tryPort(in, v, v.Port, true); got != placedTaken {
			if got == placedOK {
				m.hit("masquerade: the client's own port")
			}
			return got
		}
	}
	if in.Proto == protoSCTP || len(m.ports) == 0 {
		return placedTaken
	}
	for _, rested := range []bool{true, false} {
		for i := range uint32(portAttempts) {
			if got := m.tryPort(in, v, m.nthPort(m.start+i), rested); got != placedTaken {
				return got
			}
		}
	}
	return placedTaken
}

func (m *model) tryPort(in *key, v flow, port uint16, rested bool) placed {
	in.Dport = port
	got := m.place(*in, v)
	if got == placedFull && m.makeRoom() {
		return placedTaken // the next port finds room
	}
	if got == placedTaken && m.takeOver(*in, v, rested) {
		if !rested {
			m.hit("masquerade: the port of a connection that was just closed")
		}
		m.hit("masquerade: the port of a closed connection")
		got = placedOK
	}
	return got
}

// takeOver ends the flow that has an E3, if it is over; rested: since a second.
func (m *model) takeOver(k key, v flow, rested bool) bool {
	e := m.flows[k]
	if !m.isOver(key{Saddr: k.Saddr, Daddr: e.Addr, Sport: k.Sport, Dport: e.Port, Proto: k.Proto, Position: uint8(e4)}, rested) {
		return false
	}
	if e.live() { // it did not die with its flow: the sweeper's
		m.hit("masquerade: an orphan keeps its port")
		return false
	}
	e.flow = v
	return true
}

func (m *model) isOver(r key, rested bool) bool {
	e := m.get(r)
	if e == nil {
		return true
	}
	k, ok := m.forwardOf(e)
	f := m.get(k)
	if !ok || f == nil {
		return true
	}
	if k.Proto != protoTCP || !isFinished(f.State) || (rested && (!m.older(f, 1) || !m.older(e, 1))) {
		return false
	}
	m.retire(f)
	return true
}

// unmasquerade, at ingress, from a backend to what stands for a client. False:
// it does not.
func (m *model) unmasquerade(p *pkt) bool {
	e := m.get(p.key(e3))
	if e == nil {
		return false
	}
	m.hit("masquerade: a reply goes to the client")
	p.rewrite(destination, e.Addr, e.Port)
	m.pass(p)
	return true
}

// toBackend, at ingress: a connection to a backend itself has the port that a
// flow would have, and who comes second gets another.
func (m *model) toBackend(p *pkt) {
	if !m.backendBits.has(p.dst, p.dport, p.proto) && (!m.anyPort || !m.backendBits.has(p.dst, 0, p.proto)) {
		m.nobodys(p, "pass: to a backend's address, another port")
		return
	}
	if f := m.get(p.key(e1)); f != nil {
		if !isSYN(p.flags) || !isFinished(f.State) {
			m.hit("direct: of a known connection with another port")
			m.known(p, f, 0)
			return
		}
		m.hit("direct: SYN on a finished connection")
		m.retire(f)
	}
	if p.proto != protoUDP && (p.proto != protoTCP || !isSYN(p.flags)) {
		m.hit("pass: direct, no first packet")
		m.pass(p)
		return
	}
	r := m.get(answers(p.key(e1), e4))
	if r != nil && !m.yields(r) {
		e, why := m.insert(p, flow{Addr: p.dst, Port: p.dport, Flags: fDirect})
		if why != noReason {
			m.hit("direct: no other port")
			m.drop(why)
			return
		}
		m.hit("direct: gets another port")
		m.forward(p, e, 0)
		return
	}
	if r != nil {
		m.hit("direct: a flow yields")
		m.discard(r)
	}
	m.hit("direct: remembered")
	m.direct[answers(p.key(e1), e4)] = true
	m.pass(p)
}

// yields says whether the flow of a reply entry ends for a direct connection:
// it is over, or was never answered.
func (m *model) yields(r *entry) bool {
	k, ok := m.forwardOf(r)
	f := m.get(k)
	if !ok || f == nil {
		return true
	}
	if f.State == stUDP {
		if f.Flags&fReplied != 0 {
			return false
		}
	} else if f.State != uint8(bpf.LBFlowStateSTATE_SYN_RECV) && !isFinished(f.State) {
		return false
	}
	m.retire(f)
	return true
}
