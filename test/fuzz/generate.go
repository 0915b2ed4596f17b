// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// generator makes frames that meet each other: from small pools, and from what
// the model's flows say would come next.
type generator struct {
	*rand.Rand
	m     *model
	queue []arrival
	flood bool // new flows and refused ones, until the clock moves
}

// maxQueue bounds what waits to be sent; what comes beyond is lost.
const maxQueue = 400

func (g *generator) push(a arrival) {
	if len(g.queue) < maxQueue && runs(a.frame) {
		g.queue = append(g.queue, a)
	}
}

// runs says whether a test run takes a frame: not one with less than its kind's
// header (since 6.18).
func runs(frame []byte) bool {
	if len(frame) <= shortLen || len(frame) > maxFrame {
		return false
	}
	switch be16(frame[12:]) {
	case 0x0800:
		return len(frame) >= ethLen+20
	case 0x86dd:
		return len(frame) >= ethLen+40
	}
	return true
}

// next is the next frame.
func (g *generator) next() (arrival, error) {
	for len(g.queue) == 0 || g.IntN(6) == 0 {
		if err := g.make(); err != nil {
			return arrival{}, err
		}
	}
	a := g.queue[0]
	g.queue = g.queue[1:]
	return a, nil
}

// observe queues what a frame becomes: what passed ingress leaves, and what is
// sent again comes again.
func (g *generator) observe(a arrival, o outcome) {
	switch {
	case o.verdict == next && a.hook.ingress && g.IntN(4) > 0:
		h := hooks[1]
		if a.hook.l3 == 0 {
			h = hooks[3]
		}
		if !slices.Equal(o.frame, a.frame) || g.IntN(4) == 0 {
			g.push(arrival{h, slices.Clone(o.frame), a.dev})
		}
	case o.verdict == redirect && g.IntN(8) == 0:
		g.push(arrival{hooks[1], slices.Clone(o.frame), g.m.devices[0]})
	}
	for _, f := range o.sent {
		g.push(arrival{a.hook, f, a.dev})
	}
}

// make queues a frame, or the fragments of one.
func (g *generator) make() error {
	h := hooks[0]
	p := packet.Packet{Protocol: []lb.Protocol{lb.TCP, lb.TCP, lb.TCP, lb.UDP, lb.UDP, lb.SCTP}[g.IntN(6)]}
	n := g.IntN(100)
	if g.flood && g.IntN(4) > 0 {
		n = 40 + g.IntN(25)
	}
	switch {
	case g.m.begun != nil:
		g.again(&p)
	case len(g.m.list) > g.m.capacity-8 && g.IntN(3) == 0:
		h = g.leaves(&p)
	case n == 99 && g.m.ring.Next >= ringPlaces: // where the next flow's place is
		g.first(&p, g.m.ring.places[g.m.ring.Next%ringPlaces])
	case n < 40 && len(g.m.list) > 0:
		h = g.flowPacket(&p)
	case n < 55:
		g.toVIP(&p)
	case n < 65:
		g.direct(&p)
	case n < 70:
		h = hooks[g.IntN(2)]
		g.anyEnds(&p)
	case n < 85 && len(g.m.list) > 0:
		return g.error()
	case n < 90:
		return g.nonsense()
	default:
		h = g.reply(&p)
	}
	return g.finish(h, p)
}

// finish gives a packet what its ends do not say, and queues it.
func (g *generator) finish(h hook, p packet.Packet) error {
	if p.Flags == 0 {
		p.Flags = g.flags()
	}
	p.Seq, p.Ack = g.Uint32(), g.Uint32()
	p.ZeroChecksum = p.Protocol == lb.UDP && p.Src.Addr().Is4() && g.IntN(8) == 0
	p.Options = p.Src.Addr().Is4() && g.IntN(12) == 0
	p.Payload = g.payload(p)
	if g.IntN(24) == 0 {
		p.DstMAC = [6]byte{byte(g.IntN(256)), 1, 2, 3, 4, 5}
	}
	p.SrcMAC = [6]byte{2, 0, 0, 0, 0, byte(g.IntN(4))}
	frame, err := p.Bytes()
	if err != nil {
		return err
	}
	if g.IntN(20) == 0 && !p.Options && !p.ZeroChecksum {
		return g.fragments(h, p)
	}
	if p.Src.Addr().Is6() && g.IntN(8) == 0 {
		frame = g.extend(frame)
	}
	g.emit(h, frame)
	return nil
}

// payload: short most often; what an Ethernet-less device's header has place
// for; long now and then.
func (g *generator) payload(p packet.Packet) []byte {
	n := g.IntN(64)
	switch g.IntN(16) {
	case 0:
		n = g.IntN(1400)
	case 1, 2, 3:
		n = map[lb.Protocol]int{lb.TCP: 20, lb.UDP: 32, lb.SCTP: 28}[p.Protocol]
		if p.Src.Addr().Is6() {
			n = map[lb.Protocol]int{lb.TCP: 40, lb.UDP: 52, lb.SCTP: 48}[p.Protocol]
		}
	case 4:
		n = 0
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func (g *generator) flags() packet.Flag {
	all := []packet.Flag{packet.SYN, packet.SYN, packet.ACK, packet.ACK, packet.ACK, packet.SYN | packet.ACK, packet.FIN | packet.ACK,
		packet.RST, packet.RST | packet.ACK, packet.FIN, 0}
	return all[g.IntN(len(all))]
}

// client is one of a family: now and then a backend or this node.
func (g *generator) client(v6 bool) netip.Addr {
	if g.IntN(5) == 0 {
		return g.backend(v6).Addr()
	}
	list := g.m.clients
	if g.IntN(24) == 0 {
		list = g.m.nodes
	}
	for {
		if a := pick(g.Rand, list...); a.Is6() == v6 {
			return a
		}
	}
}

func (g *generator) clientPort() uint16 {
	if g.IntN(8) == 0 || g.flood {
		return uint16(g.IntN(65536))
	}
	return pick(g.Rand, g.m.clientPorts...)
}

// backend is one that a service has, or had.
func (g *generator) backend(v6 bool) netip.AddrPort {
	for {
		if b := pick(g.Rand, g.m.endpoints...); b.Addr().Is6() == v6 {
			return g.anyPort(b)
		}
	}
}

// anyPort gives what has no port one.
func (g *generator) anyPort(a netip.AddrPort) netip.AddrPort {
	if a.Port() != 0 {
		return a
	}
	return netip.AddrPortFrom(a.Addr(), pick[uint16](g.Rand, 80, 80, 8080, 21, 5000, 0))
}

func (g *generator) toVIP(p *packet.Packet) {
	f := pick(g.Rand, g.m.frontends...)
	p.Protocol, p.Dst = lb.Protocol(f.proto), g.frontend(f)
	switch g.IntN(48) {
	case 0, 1, 2, 3:
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), uint16(g.IntN(100)))
	case 4:
		p.Dst = netip.AddrPortFrom(g.unallocated(f.Addr().Is6()), p.Dst.Port())
	}
	p.Src = netip.AddrPortFrom(g.client(f.Addr().Is6()), g.clientPort())
}

// frontend is where packets to a frontend go: to a node port at an address of this
// machine, seldom at another's.
func (g *generator) frontend(f frontend) netip.AddrPort {
	a := g.anyPort(f.AddrPort)
	if !f.isNodePort() {
		return a
	}
	ip := g.m.node(f.Addr().Is6())
	if g.IntN(12) == 0 {
		ip = g.backend(f.Addr().Is6()).Addr()
	}
	return netip.AddrPortFrom(ip, a.Port())
}

// unallocated is an address as a VIP's that no service ever has.
func (g *generator) unallocated(v6 bool) netip.Addr {
	for {
		if a := pick(g.Rand, g.m.unallocated...); a.Is6() == v6 {
			return a
		}
	}
}

func (g *generator) direct(p *packet.Packet) {
	v6 := g.IntN(2) == 0
	p.Dst = g.backend(v6)
	p.Src = netip.AddrPortFrom(g.client(v6), g.clientPort())
	switch g.IntN(24) {
	case 0, 1:
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), 9)
	case 2:
		p.Dst = netip.AddrPortFrom(g.unallocated(v6), p.Dst.Port())
	case 3:
		p.Dst = netip.AddrPortFrom(g.m.node(v6), pick(g.Rand, g.m.numbers...))
	}
}

func (g *generator) anyEnds(p *packet.Packet) {
	v6 := g.IntN(2) == 0
	any := func() netip.AddrPort {
		switch g.IntN(3) {
		case 0:
			return netip.AddrPortFrom(g.client(v6), g.clientPort())
		case 1:
			return g.backend(v6)
		}
		for {
			if f := pick(g.Rand, g.m.frontends...); f.Addr().Is6() == v6 {
				return g.frontend(f)
			}
		}
	}
	p.Src, p.Dst = any(), any()
}

// emit queues a frame, perhaps changed, at its hook or, seldom, another; with
// an Ethernet header or without.
func (g *generator) emit(h hook, frame []byte) {
	switch n := g.IntN(16); {
	case n == 0:
		frame = g.mutate(frame)
	case n == 1:
		h = hooks[g.IntN(len(hooks))]
	case n < 5:
		h = hooks[2]
		if !h.ingress {
			h = hooks[3]
		}
	}
	if len(frame) <= shortLen {
		return
	}
	dev := g.m.devices[0]
	if h.l3 == 0 {
		frame, dev = g.bare(h, frame)
	}
	g.push(arrival{h, frame, dev})
}

// bare takes the Ethernet header off. What comes in must have a first few
// bytes that are the device's address: see namespace.go.
func (g *generator) bare(h hook, frame []byte) ([]byte, *device) {
	v6 := frame[ethLen]>>4 == 6
	dev := g.m.devices[1]
	if v6 {
		dev = g.m.devices[2]
	}
	ip := slices.Clone(frame[ethLen:])
	if h.ingress && len(ip) >= 40 {
		ip = fit(ip, v6)
	}
	for len(ip) <= shortLen {
		ip = append(ip, 0)
	}
	return ip, dev
}

// fit gives an IP packet the length and the header that the device's address
// spells.
func fit(ip []byte, v6 bool) []byte {
	size := 100
	if !v6 {
		size = 64
		if ip[0] == 0x45 {
			ip = slices.Insert(ip, 20, 1, 1, 1, 0)
		}
	}
	ip = append(ip, make([]byte, size)...)[:size]
	if v6 {
		copy(ip, macL3v6[:])
		return ip
	}
	copy(ip, macL3v4[:])
	put16(ip[10:], 0)
	put16(ip[10:], internet(ip[:24]))
	return ip
}
