// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

type icmpKind int

const (
	icmpOther icmpKind = iota
	icmpError
	icmpRedirect
)

func (p *pkt) icmpKind() icmpKind {
	if p.part != whole || p.l4 >= len(p.frame) {
		return icmpOther
	}
	t := p.frame[p.l4]
	switch {
	case p.proto == protoICMP && p.v4 && t == 5, p.proto == protoICM6 && !p.v4 && t == 137:
		return icmpRedirect
	case p.proto == protoICMP && p.v4 && (t == 3 || t == 4 || t == 11 || t == 12), p.proto == protoICM6 && !p.v4 && t > 0 && t < 128:
		return icmpError
	}
	return icmpOther
}

// quoted reads the packet that an error quotes. False: it shows no ports.
func (p *pkt) quoted(l3 int) (q pkt, ok bool) {
	q = pkt{frame: p.frame[:p.end], l3: l3, v4: p.v4, end: p.end}
	switch {
	case p.v4:
		if p.end < l3+20 || p.frame[l3]>>4 != 4 || p.frame[l3]&15 < 5 || be16(p.frame[l3+6:])&0x1fff != 0 {
			return q, false
		}
		ip := p.frame[l3:]
		q.src, q.dst, q.proto, q.l4 = mapped(ip[12:16]), mapped(ip[16:20]), ip[9], l3+int(ip[0]&15)*4
	default:
		if p.end < l3+40 || p.frame[l3]>>4 != 6 {
			return q, false
		}
		ip := p.frame[l3:]
		q.src, q.dst, q.proto, q.l4 = addr(ip[8:24]), addr(ip[24:40]), ip[6], l3+40
		if q.extensions() != showsPorts {
			return q, false
		}
	}
	if q.proto != protoTCP && q.proto != protoUDP && q.proto != protoSCTP || q.l4+4 > q.end {
		return q, false
	}
	q.sport, q.dport = be16(q.frame[q.l4:]), be16(q.frame[q.l4+2:])
	return q, true
}

func (m *model) icmpIn(p *pkt) {
	if p.icmpKind() != icmpError {
		m.icmpPass(p, "icmp: none of ours")
		return
	}
	q, ok := p.quoted(p.l4 + 8)
	if !ok {
		m.icmpPass(p, "icmp: quotes too little")
		return
	}
	k := answers(q.key(0), e1)
	if f := m.get(k); f != nil {
		m.hit("icmp in: to the backend, about a reply")
		m.translate(p, &q, destination, f, at(k, r1))
		m.pass(p)
	} else if e := m.get(at(k, e3)); e != nil {
		m.hit("icmp in: to the client, about a masqueraded packet")
		m.translate(p, &q, destination, e, key{})
		m.pass(p)
	} else {
		m.icmpPass(p, "icmp: about no flow")
	}
}

// icmpPass leaves what is no flow's to the stack, ping of a VIP too.
func (m *model) icmpPass(p *pkt, rule string) {
	if _, isVIP := m.vips[vipKey{Addr: p.dst}]; isVIP {
		m.hit(rule)
		m.pass(p)
		return
	}
	m.nobodys(p, rule)
}

func (m *model) icmpOut(p *pkt) {
	kind, at3 := p.icmpKind(), p.l4+8
	if kind == icmpRedirect && !p.v4 {
		at3 = p.redirected()
	}
	q, ok := pkt{}, false
	if kind != icmpOther && at3 > 0 {
		q, ok = p.quoted(at3)
	}
	k := answers(q.key(0), e4)
	switch {
	case !ok:
		m.hit("icmp out: none of ours")
	case kind == icmpRedirect && (m.get(k) != nil || m.get(at(q.key(0), e4)) != nil):
		m.hit("icmp out: a redirect about a flow")
		m.drop(bpf.LBDropReasonDROP_REDIRECT)
		return
	case kind == icmpRedirect:
	case m.get(k) != nil:
		m.hit("icmp out: to the client, as the VIP's")
		m.translate(p, &q, source, m.get(k), at(k, r4))
	case m.get(at(k, e2)) != nil:
		m.hit("icmp out: to the backend, as this node's")
		m.translate(p, &q, source, m.get(at(k, e2)), key{})
	}
	m.pass(p)
}

// redirected is where an ICMPv6 redirect quotes the packet; 0: nowhere.
func (p *pkt) redirected() int {
	at := p.l4 + 40
	for range 2 {
		if at+2 > p.end {
			return 0
		}
		if p.frame[at] == 4 {
			return at + 8
		}
		at += int(p.frame[at+1]) * 8
	}
	return 0
}

// translate rewrites an error's end as e does with packets, and the other end
// of what it quotes; other is the entry that has the client's other port.
func (m *model) translate(p, q *pkt, e end, f *entry, other key) {
	before := slices.Clone(p.frame)
	q.requote(!e, f.Addr, f.Port)
	if f.Flags&fResourced != 0 {
		if o := m.get(other); o != nil {
			m.hit("icmp: with another client port")
			to := q.src
			if e == destination {
				to = q.dst
			}
			q.requote(e, to, o.Port)
		}
	}
	old, now := setAddr(p.frame, p.l3, p.v4, e, f.Addr)
	if p.v4 {
		old, now = nil, nil
	}
	zero := func(b []byte) []byte { // the error without its own checksum
		b = slices.Clone(b[p.l4:p.end])
		b = append(b, make([]byte, len(b)&1)...)
		b[2], b[3] = 0, 0
		return b
	}
	if p.l4+4 > len(p.frame) {
		return
	}
	put16(p.frame[p.l4+2:], mend(be16(before[p.l4+2:]), slices.Concat(zero(before), old), slices.Concat(zero(p.frame), now)))
}

// requote rewrites an end of a quoted packet, as far as it is there.
func (p *pkt) requote(e end, to addr, port uint16) {
	before, after := setAddr(p.frame, p.l3, p.v4, e, to)
	where := p.l4
	if e == destination {
		where += 2
	}
	before = append(before, p.frame[where:where+2]...)
	put16(p.frame[where:], port)
	after = append(slices.Clone(after), p.frame[where:where+2]...)
	c := checkAt(p.l4, p.proto)
	if c == 0 || c+2 > p.end || (p.proto == protoUDP && be16(p.frame[c:]) == 0) {
		return
	}
	sum := mend(be16(p.frame[c:]), before, after)
	if p.proto == protoUDP && sum == 0 {
		sum = 0xffff
	}
	put16(p.frame[c:], sum)
}
