// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	answersPerSecond = 1000 // and CPU
	hz               = 250  // jiffies a second, as the programs are told
	answerTTL        = 64
)

// refuse counts a packet and answers it, by RST or port unreachable.
func (m *model) refuse(a arrival, p *pkt, r reason, reset bool) {
	m.drop(r)
	if p.part == later {
		m.hit("answer: none about a later fragment")
		return
	}
	if !isHost(p.src) {
		m.hit("answer: none to what is no host")
		return
	}
	if m.now-m.refilled >= hz || m.refilled == 0 {
		m.refilled, m.tokens = m.now, answersPerSecond
	}
	if m.tokens == 0 {
		m.hit("answer: too many this second")
		m.drop(bpf.LBDropReasonDROP_RATE_LIMITED)
		return
	}
	m.tokens--
	m.out.verdict = redirect
	// A test run inserts where it put the Ethernet header: this is a frame
	// only where that is part of the packet.
	m.out.loose = !reset && p.l3 == 0
	if reset {
		m.hit("answer: RST")
		m.out.frame = resetOf(p)
	} else {
		m.hit("answer: port unreachable")
		m.out.frame, m.out.fresh = unreachable(p), true
	}
	if p.l3 == ethLen {
		copy(m.out.frame, slices.Concat(a.frame[6:12], a.frame[:6]))
	}
}

// isHost reports whether an address may be a host's.
func isHost(a addr) bool {
	ip := netip.AddrFrom16(a).Unmap()
	if b := ip.AsSlice(); ip.Is4() && (b[0] == 0 || b[0] >= 240) {
		return false
	}
	return !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsMulticast()
}

// internet is the checksum of RFC 1071.
func internet(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := range b {
			if i%2 == 0 {
				sum += uint32(b[i]) << 8
			} else {
				sum += uint32(b[i])
			}
		}
		for sum > 0xffff {
			sum = sum&0xffff + sum>>16
		}
	}
	return ^uint16(sum)
}

// pseudo is the header that a transport's checksum covers too.
func pseudo(src, dst addr, n int, proto uint8) []byte {
	b := slices.Concat(src[:], dst[:], make([]byte, 8))
	binary.BigEndian.PutUint32(b[32:], uint32(n))
	b[39] = proto
	return b
}

// network is an IP header without options.
func (p *pkt) answerHeader(n int, proto uint8) []byte {
	if p.v4 {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, answerTTL, proto, 0, 0}
		put16(ip[2:], uint16(20+n))
		ip = slices.Concat(ip, p.dst[12:], p.src[12:])
		put16(ip[10:], internet(ip))
		return ip
	}
	ip := []byte{0x60, 0, 0, 0, 0, 0, proto, answerTTL}
	put16(ip[4:], uint16(n))
	return slices.Concat(ip, p.dst[:], p.src[:])
}

// unreachable is ICMP port unreachable about a packet.
func unreachable(p *pkt) []byte {
	n, icmp, proto := min(p.bytes(), 1280-48), []byte{1, 4, 0, 0, 0, 0, 0, 0}, uint8(protoICM6)
	if p.v4 {
		n, icmp, proto = min(p.bytes(), 576-28), []byte{3, 3, 0, 0, 0, 0, 0, 0}, protoICMP
	}
	n &^= 3
	icmp = slices.Concat(icmp, p.frame[p.l3:p.l3+n])
	if p.v4 {
		put16(icmp[2:], internet(icmp))
	} else {
		put16(icmp[2:], internet(pseudo(p.dst, p.src, len(icmp), proto), icmp))
	}
	return slices.Concat(p.frame[:p.l3], p.answerHeader(len(icmp), proto), icmp)
}

// resetOf is the RST that answers a segment (RFC 9293 section 3.10.7.1), with
// the network headers of the segment.
func resetOf(p *pkt) []byte {
	in := p.frame[p.l4:]
	rst := make([]byte, 20)
	copy(rst, in[2:4])
	copy(rst[2:], in[:2])
	rst[12], rst[13] = 5<<4, tcpRST
	if p.flags&tcpACK != 0 {
		copy(rst[4:8], in[8:12])
	} else {
		rst[13] |= tcpACK
		n := uint32(p.end - p.l4 - int(in[12]>>4)*4)
		n += uint32(p.flags>>1&1) + uint32(p.flags&1)
		binary.BigEndian.PutUint32(rst[8:], binary.BigEndian.Uint32(in[4:])+n)
	}
	put16(rst[16:], internet(pseudo(p.src, p.dst, 20, protoTCP), rst))
	out := slices.Concat(p.frame[:p.l4], rst)
	at, size := addrAt(p.l3, p.v4, source)
	copy(out[at:], p.dst[16-size:])
	copy(out[at+size:], p.src[16-size:])
	if p.v4 {
		old := slices.Clone(out[p.l3 : p.l3+10])
		put16(out[p.l3+2:], uint16(p.l4-p.l3+20))
		out[p.l3+8] = answerTTL
		put16(out[p.l3+10:], mend(be16(out[p.l3+10:]), old, out[p.l3:p.l3+10]))
	} else {
		out[p.l3+7] = answerTTL
		put16(out[p.l3+4:], uint16(p.l4-p.l3-40+20))
	}
	return out
}
