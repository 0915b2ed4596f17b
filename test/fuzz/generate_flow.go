// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// What flows that are there, or were, would send.

// again is the first packet of a flow whose forward entry is gone, or may be
// another's.
func (g *generator) again(p *packet.Packet) {
	g.first(p, *g.m.begun)
	g.m.begun = nil
}

// first is the first packet of a forward key.
func (g *generator) first(p *packet.Packet, k key) {
	p.Protocol, p.Src, p.Dst, p.Flags = lb.Protocol(k.Proto), end2(k.Saddr, k.Sport), end2(k.Daddr, k.Dport), packet.SYN
}

// flowPacket is a packet that an entry is for.
func (g *generator) flowPacket(p *packet.Packet) hook {
	e, few := pick(g.Rand, g.m.list...), g.IntN(4)
	for range few & 1 * 40 { // of those that are few, more
		if e.live() && e.key.Position == uint8(e1) && e.key.Proto == protoTCP && (few == 1 || e.Flags&fDirect != 0) {
			p.Flags = pick(g.Rand, packet.RST, packet.ACK, 0)
			if e.Flags&fDirect == 0 {
				p.Flags = pick(g.Rand, packet.SYN, packet.SYN, packet.ACK)
			}
			break
		}
		e = pick(g.Rand, g.m.list...)
	}
	p.Protocol, p.Src, p.Dst = lb.Protocol(e.key.Proto), end2(e.key.Saddr, e.key.Sport), end2(e.key.Daddr, e.key.Dport)
	if e.key.Position == uint8(e1) && (g.IntN(8) == 0 || isFinished(e.State) && g.IntN(2) == 0) {
		p.Flags = packet.SYN // the port is used again
	}
	if e.key.Position == uint8(e1) || e.key.Position == uint8(e3) {
		return hooks[0]
	}
	return hooks[1]
}

// leaves is what a flow that is to be masqueraded, is established, and has no port
// yet sends on.
func (g *generator) leaves(p *packet.Packet) hook {
	for range 40 {
		e := pick(g.Rand, g.m.list...)
		out := answers(replyOf(e.key, &e.flow), e2)
		if e.live() && e.key.Position == uint8(e1) && e.Flags&(fMasq|fHalfOpen|fResourced) == fMasq && g.m.get(out) == nil {
			p.Protocol, p.Src, p.Dst = lb.Protocol(e.key.Proto), end2(e.key.Saddr, e.key.Sport), end2(e.Addr, e.Port)
			return hooks[1]
		}
	}
	return g.flowPacket(p)
}

// reply is what a backend sends on a flow's tuple, where it meets this node
// first; any packet, if there is no flow.
func (g *generator) reply(p *packet.Packet) hook {
	for range 8 {
		if len(g.m.list) == 0 {
			break
		}
		if e := pick(g.Rand, g.m.list...); e.key.Position >= uint8(e3) && e.live() {
			p.Protocol, p.Src, p.Dst = lb.Protocol(e.key.Proto), end2(e.key.Saddr, e.key.Sport), end2(e.key.Daddr, e.key.Dport)
			return hooks[0]
		}
	}
	g.direct(p)
	return hooks[0]
}
