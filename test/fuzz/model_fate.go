// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/waggle-lb/waggle/bpf"
)

const (
	stActive = uint8(bpf.LBBackendStateBACKEND_ACTIVE)

	onePacket     = uint8(bpf.LBServiceOptionsSERVICE_ONE_PACKET)
	keepQuiesced  = uint8(bpf.LBServiceOptionsSERVICE_KEEP_QUIESCED)
	lapses        = uint8(bpf.LBServiceOptionsSERVICE_LAPSES)
	lostReset     = uint8(bpf.LBServiceOptionsSERVICE_LOST_RESET)
	lostDrop      = uint8(bpf.LBServiceOptionsSERVICE_LOST_DROP)
	reuseFinished = uint8(bpf.LBServiceOptionsSERVICE_REUSE_FINISHED)
	reuseNever    = uint8(bpf.LBServiceOptionsSERVICE_REUSE_NEVER)
)

// toVIP is a packet to an address that services have, or to a port that is one's
// node port. True: it is to no frontend.
func (m *model) toVIP(a arrival, p *pkt) (elsewhere bool) {
	f := m.get(p.key(e1))
	if f == nil {
		return m.newFlow(a, p)
	}
	b, there := m.backendOf(f)
	switch m.fate(p, f, b, there) {
	case dropped:
		m.drop(bpf.LBDropReasonDROP_BACKEND_GONE)
	case ends:
		m.retire(f)
		p.ended = true
		return m.newFlow(a, p)
	default:
		m.hit("forward: of a known flow")
		id := f.Backend
		if !there {
			id = 0
		}
		m.known(p, f, id)
	}
	return false
}

// fate is what becomes of a packet whose flow is there.
type fate int

const (
	keeps fate = iota
	ends       // the flow does, and the packet may begin another
	dropped
)

// fate says it by the words lostBackend and portReuse of docs/services.md. A
// service whose backend is forgotten says nothing.
func (m *model) fate(p *pkt, f *entry, b backend, there bool) fate {
	s := m.services[b.Service]
	if !there || s == nil {
		s = &service{}
	}
	tcp := p.proto == protoTCP
	if f.Flags&fDirect != 0 {
		return m.directFate(p, f)
	}
	if tcp && isSYN(p.flags) && m.repicks(s, f, b, there) {
		return ends
	}
	if there && b.State == stActive {
		return keeps
	}
	switch {
	case s.has(lostDrop):
		m.hit("lost: dropped")
		return dropped
	case tcp && s.has(lostReset):
		m.hit("lost: TCP ends")
		return ends
	case tcp:
		m.hit("lost: TCP goes on")
		return keeps
	}
	if _, served := m.frontend(p); !served {
		m.hit("lost: UDP, and the service is gone too")
		return keeps
	}
	m.hit("lost: UDP picks again")
	return ends
}

// directFate is that of a direct connection with another port: what begins there
// may be for a frontend that came later.
func (m *model) directFate(p *pkt, f *entry) fate {
	_, served := m.frontend(p)
	begins := p.proto != protoTCP || isSYN(p.flags)
	switch {
	case begins && served:
		m.hit("direct: a frontend has the address now")
		return ends
	case p.proto == protoTCP && begins && isFinished(f.State):
		m.hit("direct: SYN on a finished connection, to a node port's number")
		return ends
	}
	m.hit("direct: to a node port's number")
	return keeps
}

// repicks says whether the SYN of a flow's tuple gets a backend of its own.
func (m *model) repicks(s *service, f *entry, b backend, there bool) bool {
	finished := isFinished(f.State)
	switch {
	case s.has(reuseFinished|reuseNever) && s.has(lostReset) && there && b.Weight == 0:
		m.hit("reuse: the backend is quiesced, and lost flows are reset")
		return true
	case s.has(reuseNever):
		m.hit("reuse: never")
		return false
	case s.has(reuseFinished) && finished && f.Flags&fAffinity != 0:
		m.hit("reuse: not of a finished flow with affinity")
		return false
	case s.has(reuseFinished):
		m.hit("reuse: of finished ones")
		return finished
	case finished:
		m.hit("reuse: SYN on a finished flow")
		return true
	case there && b.State == stActive && b.Weight > 0 && b.inNoPool():
		m.hit("reuse: SYN, and the backend is in no pool")
		return true
	case !there || !b.serves():
		m.hit("reuse: SYN, and the backend is gone or quiesced")
		return true
	}
	m.hit("forward: SYN of a live flow stays")
	return false
}
