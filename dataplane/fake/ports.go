// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// firstPort is where the search for a free port begins.
const firstPort = 1024

// enter makes f, the flow of a first packet, known. If the client's port is
// taken at the backend, by another flow or by a connection without a VIP, the
// backend sees another.
func (k *Kernel) enter(p Packet, f *flow) {
	f.source, f.proto, f.state = f.client, p.Protocol, udp
	if p.Protocol == lb.TCP {
		f.state = tcpNext(none, p.Flags, false)
	}
	if b := f.backend; b != nil {
		b.count(f.state, 1)
		b.judge()
	}
	for port := uint16(firstPort); k.replies[f.replyKey()] != nil || k.direct[f.replyKey()]; port++ {
		f.source = netip.AddrPortFrom(f.client.Addr(), port)
	}
	k.flows[f.forwardKey()] = f
	k.replies[f.replyKey()] = f
}

// leave is a packet of a flow to be masqueraded, on its way to the backend.
func (k *Kernel) leave(p Packet, f *flow) Outcome {
	if !f.masq.IsValid() {
		node := k.node[lb.FamilyOf(p.Src.Addr())]
		if !node.IsValid() {
			return k.drop(noAddress)
		}
		f.masq = netip.AddrPortFrom(node, firstPort)
		for k.returns[f.returnKey()] != nil {
			f.masq = netip.AddrPortFrom(node, f.masq.Port()+1)
		}
		k.returns[f.returnKey()] = f
	}
	return Outcome{Verdict: lb.Forward, Src: f.masq, Dst: p.Dst}
}

func (k *Kernel) isBackend(addr netip.AddrPort) bool {
	anyPort := netip.AddrPortFrom(addr.Addr(), 0)
	for _, s := range k.services {
		if s.backends[addr] != nil || s.backends[anyPort] != nil {
			return true
		}
	}
	return false
}

// ownConnection is a client's packet to a backend itself. The connection gets
// another port if the client's is that of a live flow, which it ends if it is
// not: over, or never answered.
func (k *Kernel) ownConnection(p Packet) Outcome {
	if p.Protocol == lb.TCP && p.Flags&(SYN|ACK|RST) != SYN {
		return pass(p)
	}
	reply := tuple{p.Dst, p.Src, p.Protocol}
	f := k.replies[reply]
	if f == nil || !f.replied || f.state == synRecv || f.isFinished() {
		if f != nil {
			k.end(f)
		}
		k.direct[reply] = true
		return pass(p)
	}
	own := &flow{client: p.Src, vip: p.Dst, server: p.Dst}
	k.enter(p, own)
	return k.forward(p, own)
}
