// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	heldBytes  = int(bpf.LBLimitsHELD_BYTES)
	maxHeldOne = 64
)

// datagram is what a fragment is of.
func (p *pkt) datagram() datagram {
	d := datagram{p.src, p.dst, p.id, p.proto}
	if !p.v4 { // only the first says it (RFC 8200 section 4.5)
		d.proto = 0
	}
	return d
}

// join gives a fragment its datagram's ports. False: it goes no further now.
func (m *model) join(a arrival, p *pkt) bool {
	d := p.datagram()
	known := m.datagrams[d]
	if p.part == first {
		if known == nil {
			known = &pieces{}
			m.datagrams[d] = known
		}
		known.sport, known.dport, known.proto, known.known = p.sport, p.dport, p.proto, true
		m.hit("fragment: a first")
		m.release(a, p, known)
		return true
	}
	if known != nil && known.known {
		m.hit("fragment: follows its first")
		p.sport, p.dport, p.proto = known.sport, known.dport, known.proto
		return true
	}
	if len(p.frame)-p.l3 > heldBytes {
		m.hit("fragment: too long to wait")
		m.drop(bpf.LBDropReasonDROP_FRAGMENT)
		return false
	}
	if known == nil {
		known = &pieces{}
		m.datagrams[d] = known
	}
	n := known.held
	known.held++
	if n >= maxHeldOne {
		m.hit("fragment: too many wait")
		m.drop(bpf.LBDropReasonDROP_FRAGMENT)
		return false
	}
	m.hit("fragment: waits for its first")
	if known.kept == nil {
		known.kept = map[int][]byte{}
	}
	if known.kept[n] == nil {
		m.heldCount++
	}
	known.kept[n] = slices.Clone(p.frame[p.l3:])
	m.out.verdict = drop
	return false
}

// release sends what waited for a first fragment through the hook again.
func (m *model) release(a arrival, p *pkt, known *pieces) {
	if known.held == 0 {
		return
	}
	n := min(known.held, maxHeldOne)
	known.held = 0
	if len(p.frame)-p.l3 > heldBytes {
		m.hit("fragment: a first too long to be put aside")
		return
	}
	for i := range n {
		if b := known.kept[i]; b != nil {
			m.out.sent = append(m.out.sent, slices.Concat(a.frame[:p.l3], b))
			delete(known.kept, i)
			m.heldCount--
		}
	}
	m.hit("fragment: releases those that waited")
}
