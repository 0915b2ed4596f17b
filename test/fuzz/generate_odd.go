// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// fragments queues a packet in pieces: in order or not, some twice, some not
// at all, some over others.
func (g *generator) fragments(h hook, p packet.Packet) error {
	sizes := []int{16, 24, 40, 56, 512, 1024, 1480, 1600}
	size := pick(g.Rand, sizes...)
	p.Payload = make([]byte, g.IntN(min(2600, 6*size)))
	if size == 16 {
		p.Payload = make([]byte, g.IntN(2600))
	}
	frame, err := p.Bytes()
	if err != nil {
		return err
	}
	id := uint32(g.IntN(64))
	if g.IntN(4) == 0 {
		id = 0
	}
	parts, err := packet.Fragment(frame, size, id)
	if err != nil {
		return err
	}
	switch g.IntN(3) {
	case 0:
		g.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	case 1:
		slices.Reverse(parts)
	}
	for _, f := range parts {
		switch g.IntN(24) {
		case 0:
			continue
		case 1:
			g.emit(h, slices.Clone(f))
		case 2: // overlaps, or leaves a gap
			at := ethLen + 7
			if f[ethLen]>>4 == 6 {
				at = ethLen + 43
			}
			f[at] ^= byte(8 << g.IntN(3))
		}
		g.emit(h, f)
	}
	return nil
}

// extend puts IPv6 extension headers before the transport's.
func (g *generator) extend(frame []byte) []byte {
	kinds := []byte{protoHop, protoRt, protoFrag, protoDst, protoDst, protoDst, protoAH, protoRt}
	n := 1 + g.IntN(3)
	if g.IntN(6) == 0 {
		n = 6 + g.IntN(5)
	}
	for range n {
		kind := pick(g.Rand, kinds[:6]...)
		if g.IntN(24) == 0 {
			kind = pick(g.Rand, kinds...)
		}
		h := make([]byte, 8)
		switch kind {
		case protoDst:
			if g.IntN(6) == 0 {
				h = make([]byte, 8*(1+g.IntN(24)))
			}
		case protoRt:
			h[2] = 4
			if g.IntN(8) == 0 {
				h[3] = 1
			}
		case protoFrag:
			put16(h[2:], uint16(g.IntN(3)/2)) // atomic, or a first
			binary.BigEndian.PutUint32(h[4:], uint32(g.IntN(64)))
		}
		h[0] = frame[ethLen+6]
		if kind != protoFrag {
			h[1] = byte(len(h)/8 - 1)
		}
		frame = slices.Concat(frame[:ethLen+40], h, frame[ethLen+40:])
		frame[ethLen+6] = kind
		put16(frame[ethLen+4:], uint16(len(frame)-ethLen-40))
	}
	return frame
}

// error queues an ICMP error, or redirect, about a packet that an entry's
// packets answer.
func (g *generator) error() error {
	e := pick(g.Rand, g.m.list...)
	about := packet.Packet{Src: end2(e.key.Daddr, e.key.Dport), Dst: end2(e.key.Saddr, e.key.Sport), Protocol: lb.Protocol(e.key.Proto),
		Flags: g.flags(), Payload: make([]byte, g.IntN(100))}
	about.ZeroChecksum = about.Protocol == lb.UDP && about.Src.Addr().Is4() && g.IntN(6) == 0
	about.Options = about.Src.Addr().Is4() && g.IntN(8) == 0
	h := hooks[1]
	if e.key.Position == uint8(e1) || e.key.Position == uint8(e3) {
		h = hooks[0]
	}
	to := about.Src.Addr()
	if g.IntN(16) == 0 {
		about.Src, about.Dst = about.Dst, about.Src
	}
	if g.IntN(24) == 0 { // about no flow
		to = g.unallocated(to.Is6())
		about.Src = netip.AddrPortFrom(to, about.Src.Port())
		h = hooks[0]
	}
	frame, err := about.Bytes()
	if err != nil {
		return err
	}
	v6 := about.Src.Addr().Is6()
	if v6 && g.IntN(6) == 0 {
		frame = g.extend(frame)
	}
	if g.IntN(8) == 0 { // the quoted one's time to live has gone down: nothing mends the sum
		frame[ethLen+8]--
	}
	length := g.IntN(len(frame))
	if g.IntN(2) == 0 {
		length = len(frame)
	}
	i := packet.ICMPError{Src: g.client(v6), Dst: to, Value: g.Uint32(), Quoted: packet.Quote(frame, length)}
	if g.IntN(2) == 0 {
		i.Src = netip.Addr(about.Dst.Addr())
	}
	g.emitError(h, i)
	return nil
}

// emitError queues it with a type, of an error most often.
func (g *generator) emitError(h hook, i packet.ICMPError) {
	types := []uint8{3, 3, 11, 12, 4, 5, 8, 0}
	if i.Dst.Is6() {
		types = []uint8{1, 1, 2, 3, 4, 137, 128, 0, 100}
	}
	if i.Type = pick(g.Rand, types...); i.Type == 137 {
		i.Quoted = g.redirect(i.Quoted)
		h = hooks[1]
	}
	if i.Type == 5 {
		h = hooks[1]
	}
	g.emit(h, i.Bytes())
}

// redirect is what follows the first 8 bytes of an ICMPv6 redirect
// (RFC 4861 section 4.5).
func (g *generator) redirect(quoted []byte) []byte {
	b := make([]byte, 32)
	switch g.IntN(3) {
	case 0:
		b = append(b, 2, 1, 2, 0, 0, 0, 0, 1) // the target's link-layer address
	case 1:
		b = append(b, 2, byte(g.IntN(3)), 0, 0, 0, 0, 0, 0)
	}
	return slices.Concat(b, []byte{4, byte(1 + (len(quoted)+7)/8), 0, 0, 0, 0, 0, 0}, quoted)
}

// mutate breaks a frame in a way or two.
func (g *generator) mutate(frame []byte) []byte {
	frame = slices.Clone(frame)
	for range 1 + g.IntN(3) {
		if len(frame) <= shortLen {
			return frame
		}
		switch g.IntN(9) {
		case 0, 1, 2: // a bit
			i := ethLen + g.IntN(min(len(frame)-ethLen, 80))
			frame[i] ^= 1 << g.IntN(8)
		case 3: // cut off
			frame = frame[:shortLen+1+g.IntN(len(frame)-shortLen)-1]
		case 4: // longer than it says
			frame = append(frame, make([]byte, g.IntN(60))...)
		case 5: // a length
			at := ethLen + 2 + 2*g.IntN(2)
			if len(frame) > at+2 {
				put16(frame[at:], uint16(int(be16(frame[at:]))+g.IntN(80)-40))
			}
		case 6: // a byte
			frame[ethLen+g.IntN(len(frame)-ethLen)] = byte(g.IntN(256))
		case 7: // another kind of frame
			put16(frame[12:], []uint16{0x8100, 0x0806, 0x88a8, 0x86dd, 0x0800, 0x0010}[g.IntN(6)])
		case 8: // a VLAN tag
			frame = slices.Insert(frame, 12, 0x81, 0, 0, byte(g.IntN(8)))
		}
	}
	return frame
}

// protocols without ports, those that are followed, and those that are not.
var protocols = []byte{47, 50, 51, 89, 1, 58, 2, 103, 132, 6, 17, 0, 43, 44, 60, 59}

// nonsense queues noise: with the addresses of a pool's or without.
func (g *generator) nonsense() error {
	p := packet.Packet{Protocol: lb.UDP, Payload: make([]byte, g.IntN(100))}
	g.anyEnds(&p)
	if g.IntN(2) == 0 {
		g.toVIP(&p)
		p.Protocol = lb.UDP
	}
	if g.IntN(8) == 0 {
		p.Dst = netip.AddrPortFrom(g.unallocated(p.Dst.Addr().Is6()), p.Dst.Port())
	}
	frame, err := p.Bytes()
	if err != nil {
		return err
	}
	ip := frame[ethLen:]
	at, proto := 8, 6
	if ip[0]>>4 == 4 {
		at, proto = 20, 9
	}
	for i := range ip[at:] {
		if at == 20 || i >= 32 {
			ip[at+i] = byte(g.IntN(256))
		}
	}
	switch g.IntN(3) {
	case 0:
		ip[proto] = pick(g.Rand, protocols...)
	case 1:
		ip[proto] = byte(g.IntN(256))
	case 2:
		for i := range frame[6:] {
			frame[6+i] = byte(g.IntN(256))
		}
		put16(frame[12:], []uint16{0x0800, 0x86dd, uint16(g.IntN(65536))}[g.IntN(3)])
	}
	if ip[0]>>4 == 4 && g.IntN(4) == 0 { // a fragment of whatever
		put16(ip[6:], uint16(g.IntN(65536)))
	}
	h := hooks[g.IntN(2)]
	g.emit(h, frame)
	return nil
}
