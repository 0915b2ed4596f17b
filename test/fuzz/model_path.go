// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/waggle-lb/waggle/bpf"
)

// hook is one of the four programs.
type hook struct {
	name    string
	ingress bool
	l3      int
}

var hooks = []hook{{"tc_ingress", true, ethLen}, {"tc_egress", false, ethLen}, {"tc_ingress_l3", true, 0}, {"tc_egress_l3", false, 0}}

// arrival is a frame at a hook.
type arrival struct {
	hook  hook
	frame []byte
	dev   *device
}

// step says what becomes of a frame, and brings the model's state forward.
func (m *model) step(a arrival) outcome {
	m.out, m.err = outcome{}, nil
	p, ok := addresses(append([]byte(nil), a.frame...), be16(a.frame[12:]), a.hook.l3)
	switch {
	case !ok || (a.hook.ingress && a.kind() != forHost):
		m.hit("pass: not IP, or for others")
		m.pass(&p)
	case a.hook.ingress:
		m.ingress(a, &p)
	default:
		m.egress(a, &p)
	}
	return m.out
}

// kind is what the kernel takes a frame for by its MAC address.
func (a arrival) kind() kind {
	switch {
	case [6]byte(a.frame) == a.dev.mac:
		return forHost
	case a.frame[0]&1 != 0:
		return forMany
	}
	return forOthers
}

type kind int

const (
	forHost kind = iota
	forMany
	forOthers
)

func (m *model) ingress(a arrival, p *pkt) {
	toVIP, toPeer := m.vipBits.has(p.dst), m.peerBits.has(p.dst)
	if !toVIP && !toPeer {
		m.hit("pass: neither a VIP nor a backend")
		m.pass(p)
		return
	}
	shows := p.transport()
	switch {
	case shows == showsOther && (p.proto == protoICMP || p.proto == protoICM6):
		m.icmpIn(p)
		return
	case !toVIP && shows != showsPorts && shows != showsLater:
		m.hit("pass: no ports, to a backend")
		m.pass(p)
		return
	case shows == showsOther:
		m.unwanted(a, p, bpf.LBDropReasonDROP_PROTOCOL)
		return
	case shows == showsExtension:
		m.unwanted(a, p, bpf.LBDropReasonDROP_EXTENSION)
		return
	case shows == showsNonsense:
		m.unwanted(a, p, bpf.LBDropReasonDROP_MALFORMED)
		return
	}
	if p.part != whole && !m.join(a, p) {
		return
	}
	if toVIP {
		m.toVIP(a, p)
	} else if !m.unmasquerade(p) {
		m.toBackend(p)
	}
}

// unwanted: nobody's packet to a VIP's address is passed to this machine's own
// services, if the address is its own, and must not go elsewhere if not.
func (m *model) unwanted(a arrival, p *pkt, r reason) {
	if _, isVIP := m.vips[vipKey{Addr: p.dst}]; !isVIP || m.assigned[p.dst] {
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

// known sends a packet of a flow that was there before.
func (m *model) known(p *pkt, f *entry, id uint32) {
	switch half := f.Flags&fHalfOpen != 0; {
	case p.proto != protoTCP:
		if half {
			m.unanswered(f)
		}
	case p.part == later:
	case p.flags&(tcpSYN|tcpFIN|tcpRST) != 0 || f.State != uint8(bpf.LBFlowStateSTATE_ESTABLISHED) || half:
		m.follow(f, p.flags, "in")
	}
	m.forward(p, f, id)
}

func (m *model) forward(p *pkt, f *entry, id uint32) {
	m.touch(f, p)
	s := m.stat(id)
	s.InPackets++
	s.InBytes += uint64(p.bytes())
	k := p.key(r1)
	p.rewrite(destination, f.Addr, f.Port)
	if f.Flags&fResourced != 0 {
		e := m.get(k)
		if e == nil {
			m.broken("a resourced flow has no R1")
			m.drop(bpf.LBDropReasonDROP_BUSY)
			return
		}
		m.hit("forward: with another client port")
		p.rewrite(source, e.Addr, e.Port)
	}
	m.pass(p)
}

// frontend is the one that a packet is to: its port's, else that of any port.
func (m *model) frontend(p *pkt) (bpf.LBVip, bool) {
	k := vipKey{Addr: p.dst, Port: p.dport, Proto: p.proto}
	v, ok := m.vips[k]
	if !ok {
		k.Port = 0
		if v, ok = m.vips[k]; ok {
			m.hit("frontend: of any port")
		}
	}
	return v, ok
}

func (m *model) newFlow(a arrival, p *pkt) {
	if m.unmasquerade(p) { // a masquerade port may be a frontend's
		return
	}
	v, ok := m.frontend(p)
	if !ok {
		m.unwanted(a, p, bpf.LBDropReasonDROP_UNKNOWN_PORT)
		return
	}
	s := m.services[v.Service]
	begins := p.proto != protoTCP || isSYN(p.flags)
	if !begins && !m.resumes(p, s) {
		m.stray(a, p)
		return
	}
	id := m.choose(p, s)
	b := m.backends[id]
	if !begins && (id == 0 || b.Hash == 0) {
		m.hit("resume: nobody is there")
		m.stray(a, p)
		return
	}
	if id == 0 || b.Hash == 0 {
		m.hit("refuse: empty pool")
		m.refuse(a, p, bpf.LBDropReasonDROP_EMPTY_POOL, false)
		return
	}
	f := m.lead(p, v, s, id)
	if s.once(p) {
		m.hit("one packet: goes its way")
		if p.part != later {
			m.stat(id).Connections++
		}
		m.forward(p, &entry{flow: f}, id)
		return
	}
	e, r := m.insert(p, f)
	if r == flowsFull && m.makeRoom() {
		e, r = m.insert(p, f)
	}
	switch r {
	case bpf.LBDropReasonDROP_NONE:
		m.hit("new flow: to a VIP")
		m.stat(id).Connections++
		m.forward(p, e, id)
	case bpf.LBDropReasonDROP_REPLY_TAKEN:
		m.hit("refuse: no port at the backend")
		m.refuse(a, p, r, false)
	default:
		m.drop(r)
	}
}

// lead is a flow to a backend.
func (m *model) lead(p *pkt, v bpf.LBVip, s *service, id uint32) flow {
	b := m.backends[id]
	f := flow{Addr: b.Addr, Port: b.Port, Backend: id, ServiceHash: s.Hash, BackendHash: b.Hash, Flags: fHalfOpen}
	if b.Port == 0 {
		m.hit("new flow: keeps the port that was asked for")
		f.Port = p.dport
	}
	if v.Flags&uint32(bpf.LBVipFlagsVIP_MASQUERADE) != 0 || p.src == b.Addr {
		f.Flags |= fMasq
	}
	if s.affinity > 0 {
		f.Flags |= fAffinity
	}
	return f
}

// resumes says whether TCP of no flow goes on where its hash leads.
func (m *model) resumes(p *pkt, s *service) bool {
	if s.pool.rule != ruleHash || p.part == later || p.flags&(tcpSYN|tcpRST|tcpACK) != tcpACK {
		return false
	}
	if p.ended {
		m.hit("resume: not what just ended")
		return false
	}
	m.hit("resume: by its hash")
	if m.assigned[p.dst] {
		m.hit("resume: the address is ours")
	}
	return true
}

// stray is TCP to a frontend that neither belongs to a flow nor begins one.
func (m *model) stray(a arrival, p *pkt) {
	switch {
	case m.assigned[p.dst]:
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

func (m *model) egress(a arrival, p *pkt) {
	shows := p.transport()
	if shows == showsOther {
		m.icmpOut(p)
		return
	}
	if shows != showsPorts && shows != showsLater {
		m.hit("pass: no ports, at egress")
		m.pass(p)
		return
	}
	if p.part != whole && (m.peerBits.has(p.src) || m.peerBits.has(p.dst)) {
		if !m.join(a, p) {
			return
		}
	} else if shows == showsLater {
		m.hit("pass: a fragment of others, at egress")
		m.pass(p)
		return
	}
	if r := m.get(p.key(e4)); r != nil {
		m.fromBackend(p, r)
		return
	}
	if m.masquerade(a, p) {
		return
	}
	if _, frontend := m.frontend(p); frontend && a.kind() != forOthers {
		m.hit("egress: untranslated")
		m.drop(bpf.LBDropReasonDROP_UNTRANSLATED)
		return
	}
	m.hit("pass: of no flow, at egress")
	m.pass(p)
}

// fromBackend: a reply, or whatever the backend sends on the flow's tuple.
func (m *model) fromBackend(p *pkt, r *entry) {
	_, there := m.backendOf(r)
	if p.part != later && m.tells(p, r) {
		m.heard(p, r)
	}
	m.touch(r, p)
	if there {
		s := m.stat(r.Backend)
		s.OutPackets++
		s.OutBytes += uint64(p.bytes())
	}
	k := p.key(r4)
	p.rewrite(source, r.Addr, r.Port)
	m.hit("reply: from the VIP")
	if r.Flags&fResourced != 0 {
		e := m.get(k)
		if e == nil {
			m.broken("a resourced flow has no R4")
			m.drop(bpf.LBDropReasonDROP_BUSY)
			return
		}
		m.hit("reply: to the client's own port")
		p.rewrite(destination, e.Addr, e.Port)
	}
	m.pass(p)
}

// heard brings a reply's news to its flow's forward entry.
func (m *model) heard(p *pkt, r *entry) {
	k, ok := m.forwardOf(r)
	f := m.flows[k]
	if !ok || f == nil {
		return
	}
	if p.proto == protoTCP {
		m.follow(f, p.flags, "out")
	} else {
		f.Flags |= fReplied
		m.settle(f)
	}
	if f.Flags&fAffinity != 0 {
		m.assure(f)
	}
}

// tells says whether a reply says something of its flow's state: SYN, FIN, RST,
// and the first. Of a masqueraded TCP flow a bare ACK may be the backend's about
// a former connection of the port.
func (m *model) tells(p *pkt, r *entry) bool {
	masqueraded := r.Flags&fMasq != 0
	switch {
	case p.flags&(tcpSYN|tcpFIN|tcpRST) != 0:
		if masqueraded {
			r.Flags |= fReplied
		}
		return true
	case masqueraded && p.proto == protoTCP:
		m.hit("reply: an ACK to a masqueraded port tells nothing")
		return false
	case r.Flags&fReplied != 0:
		return false
	}
	r.Flags |= fReplied
	return true
}
