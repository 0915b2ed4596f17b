// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

// addr is an address as the maps have it: 16 bytes, IPv4 mapped.
type addr = [16]uint8

// Protocols and sizes (RFC 791, RFC 8200).
const (
	ethLen    = 14
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17
	protoHop  = 0
	protoRt   = 43
	protoFrag = 44
	protoAH   = 51
	protoICM6 = 58
	protoDst  = 60
	protoSCTP = 132

	maxExtensions = 8
	maxHeaders    = 200

	tcpFIN, tcpSYN, tcpRST, tcpACK = 1, 2, 4, 16
)

// what a packet shows.
type shown int

const (
	showsPorts shown = iota
	showsOther       // another protocol
	showsLater       // a later fragment
	showsExtension
	showsNonsense
)

type part int

const (
	whole part = iota
	first
	later
)

// pkt is a packet in work; offsets are from the frame's first byte.
type pkt struct {
	frame        []byte
	l3, l4, end  int // end: of the IP packet, as its header says
	v4           bool
	src, dst     addr
	sport, dport uint16
	proto        uint8
	part         part
	id           [4]byte
	flags        uint8
	ended        bool // there was a flow, and it ended with this packet
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

func mapped(v4 []byte) (a addr) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], v4)
	return a
}

// addresses reads the first step of a packet: false if it is none of IP.
func addresses(frame []byte, etherType uint16, l3 int) (p pkt, ok bool) {
	p.frame, p.l3, p.end = frame, l3, len(frame)
	switch {
	case etherType == 0x0800 && len(frame) >= l3+20:
		p.v4, p.src, p.dst = true, mapped(frame[l3+12:l3+16]), mapped(frame[l3+16:l3+20])
	case etherType == 0x86dd && len(frame) >= l3+40:
		p.src, p.dst = addr(frame[l3+8:l3+24]), addr(frame[l3+24:l3+40])
	default:
		return p, false
	}
	return p, true
}

// bytes is the length that is counted.
func (p *pkt) bytes() int { return p.end - p.l3 }

// transport reads the second step: protocol, fragment, ports, flags.
func (p *pkt) transport() shown {
	got := p.network()
	if got != showsPorts {
		return got
	}
	need := 8
	switch p.proto {
	case protoTCP:
		need = 20
	case protoUDP, protoSCTP:
	default:
		return showsOther
	}
	if p.l4+need > p.end {
		return showsNonsense
	}
	p.sport, p.dport = be16(p.frame[p.l4:]), be16(p.frame[p.l4+2:])
	if p.proto == protoTCP {
		p.flags = p.frame[p.l4+13]
	}
	return showsPorts
}

// length takes a header's word for the packet's length.
func (p *pkt) length(n int) bool {
	if n > p.end-p.l3 {
		return false
	}
	if n > 0 {
		p.end = p.l3 + n
	}
	return true
}

func (p *pkt) network() shown {
	ip := p.frame[p.l3:]
	if p.v4 {
		if ip[0]>>4 != 4 || ip[0]&15 < 5 || !p.length(int(be16(ip[2:]))) {
			return showsNonsense
		}
		p.proto = ip[9]
		p.l4 = p.l3 + int(ip[0]&15)*4
		frag := be16(ip[6:])
		copy(p.id[:], ip[4:6])
		switch {
		case frag&0x1fff != 0:
			p.part = later
			return p.laterFragment()
		case frag&0x2000 != 0:
			p.part = first
		}
		return showsPorts
	}
	if ip[0]>>4 != 6 {
		return showsNonsense
	}
	if n := int(be16(ip[4:])); n > 0 && !p.length(40+n) {
		return showsNonsense
	}
	p.proto, p.l4 = ip[6], p.l3+40
	return p.extensions()
}

// laterFragment: only of what has ports is a fragment of interest.
func (p *pkt) laterFragment() shown {
	switch p.proto {
	case protoTCP, protoUDP, protoSCTP:
		return showsLater
	case protoDst: // the first says what is behind
		if !p.v4 {
			return showsLater
		}
	}
	return showsOther
}

// extensions follows the extension headers of IPv6.
func (p *pkt) extensions() shown {
	for range maxExtensions + 1 {
		switch p.proto {
		case protoHop, protoRt, protoFrag, protoDst:
		case protoAH:
			return showsExtension
		default:
			return showsPorts
		}
		if p.l4+8 > len(p.frame) {
			return showsNonsense
		}
		h := p.frame[p.l4:]
		if p.proto == protoRt && h[3] != 0 {
			return showsExtension
		}
		kind := p.proto
		p.proto = h[0]
		if kind != protoFrag {
			p.l4 += (int(h[1]) + 1) * 8
		} else {
			p.l4 += 8
			if off := be16(h[2:]); off&0xfff9 != 0 {
				copy(p.id[:], h[4:8])
				p.part = first
				if off&0xfff8 != 0 {
					p.part = later
					return p.laterFragment()
				}
			}
		}
		if p.l4 > maxHeaders {
			return showsExtension
		}
	}
	return showsExtension
}

func (p *pkt) key(position bpf.LBPosition) bpf.LBFlowKey {
	return bpf.LBFlowKey{Saddr: p.src, Daddr: p.dst, Sport: p.sport, Dport: p.dport, Proto: p.proto, Position: uint8(position)}
}

// mend is what the checksum of a header becomes when bytes of an even offset
// change (RFC 1624).
func mend(check uint16, from, to []byte) uint16 {
	sum := uint32(^check) + 0xffff // no sum is zero
	for i := 0; i+1 < len(from); i += 2 {
		sum += uint32(^be16(from[i:])) + uint32(be16(to[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func put16(b []byte, v uint16) { binary.BigEndian.PutUint16(b, v) }

// end says which of a packet's ends is meant.
type end bool

const (
	source      end = false
	destination end = true
)

// addrAt is where the address of an end stands.
func addrAt(l3 int, v4 bool, e end) (at, size int) {
	if v4 {
		at, size = l3+12, 4
	} else {
		at, size = l3+8, 16
	}
	if e == destination {
		at += size
	}
	return at, size
}

// setAddr writes an end's address, and what an IPv4 header's checksum becomes.
// It returns the bytes before and after.
func setAddr(frame []byte, l3 int, v4 bool, e end, to addr) (before, after []byte) {
	at, size := addrAt(l3, v4, e)
	before = slices.Clone(frame[at : at+size])
	after = to[16-size:]
	copy(frame[at:], after)
	if v4 {
		put16(frame[l3+10:], mend(be16(frame[l3+10:]), before, after))
	}
	return before, after
}

// checkAt is where a transport's checksum stands; 0: it has none of the
// internet's kind.
func checkAt(l4 int, proto uint8) int {
	switch proto {
	case protoTCP:
		return l4 + 16
	case protoUDP:
		return l4 + 6
	}
	return 0
}

// rewrite gives an end of the packet another address and port.
func (p *pkt) rewrite(e end, to addr, port uint16) {
	before, after := setAddr(p.frame, p.l3, p.v4, e, to)
	old := p.sport
	if e == destination {
		p.dst, old = to, p.dport
	} else {
		p.src = to
	}
	if p.part == later || p.proto == protoSCTP {
		return
	}
	before = append(before, byte(old>>8), byte(old))
	after = append(slices.Clone(after), byte(port>>8), byte(port))
	at := p.l4
	if e == destination {
		at, p.dport = at+2, port
	} else {
		p.sport = port
	}
	put16(p.frame[at:], port)
	c := p.frame[checkAt(p.l4, p.proto):]
	if p.proto == protoUDP && be16(c) == 0 {
		return
	}
	sum := mend(be16(c), before, after)
	if p.proto == protoUDP && sum == 0 {
		sum = 0xffff
	}
	put16(c, sum)
}
