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
		m.nobodys(p, "pass: neither a VIP nor a backend")
		return
	}
	shows := p.transport()
	switch {
	case shows == showsOther && (p.proto == protoICMP || p.proto == protoICM6):
		m.icmpIn(p)
		return
	case !toVIP && shows != showsPorts && shows != showsLater:
		m.nobodys(p, "pass: no ports, to a backend")
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
	var elsewhere bool
	if toVIP || m.nodePorts[p.dport] {
		elsewhere = m.toVIP(a, p)
	} else {
		elsewhere = !m.unmasquerade(p)
	}
	if elsewhere {
		m.toBackend(p)
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
	if a.kind() != forOthers && m.vipBits.has(p.dst) {
		if v, frontend := m.frontend(p); frontend {
			m.untranslated(p, v)
			return
		}
	}
	if m.masquerade(a, p) {
		return
	}
	m.hit("pass: of no flow, at egress")
	m.pass(p)
}

// untranslated: a packet to a frontend leaves as it is.
func (m *model) untranslated(p *pkt, v bpf.LBVip) {
	if !m.admits(v, p.src) {
		m.hit("egress: not translated, as it is restricted")
		m.drop(bpf.LBDropReasonDROP_SOURCE_RANGE)
		return
	}
	of := poolCluster
	if v.Flags&vipLocal != 0 && v.Flags&vipShort == 0 { // who is here has the other
		of = poolLocal
	}
	if r := m.services[v.Service].in(of); r.count() == 0 && r.flags&emptyDrop != 0 {
		m.hit("egress: not translated, as nobody is local")
		m.drop(bpf.LBDropReasonDROP_NO_LOCAL)
		return
	}
	m.hit("egress: untranslated")
	m.drop(bpf.LBDropReasonDROP_UNTRANSLATED)
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
