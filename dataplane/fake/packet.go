// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// Packet is a TCP segment or UDP datagram, without options in its headers.
type Packet struct {
	Src, Dst netip.AddrPort
	Protocol lb.Protocol
	Flags    Flag // of TCP
	Payload  []byte
}

// bytes is the length of the IP packet.
func (p Packet) bytes() uint64 {
	n := 20 + 8
	if !p.Src.Addr().Is4() {
		n += 20
	}
	if p.Protocol == lb.TCP {
		n += 12
	}
	return uint64(n + len(p.Payload))
}

// isSYN reports whether it begins a connection.
func (p Packet) isSYN() bool { return p.Flags&(SYN|ACK|RST) == SYN }

// Outcome is what became of a Packet.
type Outcome struct {
	Verdict lb.Verdict
	// Src and Dst are those of the packet that goes on; zero if none does.
	Src, Dst netip.AddrPort
	// Reason is the name of bpf/drop.h for what was refused or dropped.
	Reason string
	// Answer is what a refused packet is answered with: "rst" or
	// "icmp-port-unreachable".
	Answer string
}

// The reasons that a simulation without real packets has.
const (
	emptyPool    = "empty_pool"
	unknownPort  = "unknown_port"
	noFlow       = "no_flow"
	untranslated = "untranslated"
	noAddress    = "no_address"
	backendGone  = "backend_gone"
	noLocal      = "no_local"
	sourceRange  = "source_range"
	unallocated  = "unallocated"
)

const (
	unreachable = "icmp-port-unreachable"
	reset       = "rst"
)

func pass(p Packet) Outcome { return Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst} }

func (k *Kernel) drop(reason string) Outcome {
	k.drops[reason]++
	return Outcome{Verdict: lb.Drop, Reason: reason}
}

func (k *Kernel) refuse(reason, answer string) Outcome {
	k.drops[reason]++
	return Outcome{Verdict: lb.Refuse, Reason: reason, Answer: answer}
}

// Ingress is a packet that arrives from the network, as clients' do.
func (k *Kernel) Ingress(p Packet) Outcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := tuple{p.Src, p.Dst, p.Protocol}
	f := k.flows[t]
	ended := false
	if f != nil {
		switch k.fateOf(p, f) {
		case drops:
			return k.drop(backendGone)
		case ends:
			k.end(f)
			f, ended = nil, true
		}
	}
	switch {
	case f != nil:
		if p.Protocol == lb.TCP {
			f.become(tcpNext(f.state, p.Flags, false))
		}
		return k.forward(p, f)
	case k.returns[t] != nil:
		return Outcome{Verdict: lb.Forward, Src: p.Src, Dst: k.returns[t].source}
	case k.isBackend(p.Dst) && !k.vips[p.Dst.Addr()]:
		return k.ownConnection(p)
	}
	return k.first(p, ended)
}

// first handles a packet that belongs to no flow; ended: not any more.
func (k *Kernel) first(p Packet, ended bool) Outcome {
	front, s := k.lookup(p.Dst, p.Protocol)
	if s == nil {
		return k.unwanted(p)
	}
	begins := p.Protocol != lb.TCP || p.isSYN()
	if !begins && (ended || !s.hashes() || p.Flags&(SYN|ACK|RST) != ACK) {
		return k.stray(p)
	}
	if front.Restricted && !within(p.Src.Addr(), s.svc.SourceRanges) {
		return k.drop(sourceRange)
	}
	which, masquerade := k.terms(front, p.Src.Addr())
	b := k.choose(p, s, which)
	switch {
	case b == nil && begins && s.dropsEmpty(which):
		return k.drop(noLocal)
	case b == nil && begins:
		return k.refuse(emptyPool, unreachable)
	case b == nil:
		return k.stray(p)
	}
	b.counters.Connections++
	f := &flow{client: p.Src, source: p.Src, vip: p.Dst, server: b.in.Addr, backend: b, affinity: s.svc.Affinity.Enabled()}
	if f.server.Port() == 0 {
		f.server = netip.AddrPortFrom(f.server.Addr(), p.Dst.Port())
	}
	if s.svc.OnePacket && p.Protocol == lb.UDP {
		return k.forward(p, f) // which nobody knows
	}
	f.masquerade = masquerade || f.server.Addr() == p.Src.Addr()
	k.enter(p, f)
	return k.forward(p, f)
}

// unwanted is a packet to no frontend.
func (k *Kernel) unwanted(p Packet) Outcome {
	addr := p.Dst.Addr()
	switch {
	case k.local[addr]:
		return pass(p)
	case k.vips[addr]:
		return k.refuse(unknownPort, unreachable)
	case within(addr, k.held.Node().ServiceRanges):
		return k.drop(unallocated)
	}
	return pass(p)
}

// stray is TCP to a frontend that neither belongs to a flow nor begins one.
func (k *Kernel) stray(p Packet) Outcome {
	switch {
	case k.local[p.Dst.Addr()]:
		return pass(p) // the stack knows the connection, or resets it
	case p.Flags&RST != 0:
		return k.drop(noFlow) // a reset is never answered
	}
	return k.refuse(noFlow, reset)
}

func (k *Kernel) forward(p Packet, f *flow) Outcome {
	f.seen = k.now
	if b := f.backend; b != nil {
		b.counters.InPackets++
		b.counters.InBytes += p.bytes()
	}
	return Outcome{Verdict: lb.Forward, Src: f.source, Dst: f.server}
}

// Egress is a packet that leaves for the network, as backends' replies do.
func (k *Kernel) Egress(p Packet) Outcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.replies[tuple{p.Src, p.Dst, p.Protocol}]
	if f == nil {
		if f := k.replies[tuple{p.Dst, p.Src, p.Protocol}]; f != nil && f.masquerade {
			return k.leave(p, f)
		}
		if _, s := k.lookup(p.Dst, p.Protocol); s != nil && k.vips[p.Dst.Addr()] {
			return k.drop(untranslated)
		}
		return pass(p)
	}
	if p.Protocol == lb.TCP {
		f.become(tcpNext(f.state, p.Flags, true))
	}
	f.replied = true
	f.seen = k.now
	if b := f.backend; b != nil {
		b.counters.OutPackets++
		b.counters.OutBytes += p.bytes()
	}
	return Outcome{Verdict: lb.Forward, Src: f.vip, Dst: f.client}
}
