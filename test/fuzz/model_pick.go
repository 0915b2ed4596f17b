// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"math/bits"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	ruleCursor = bpf.LBRuleRULE_CURSOR
	ruleHash   = bpf.LBRuleRULE_HASH
	ruleLeast  = bpf.LBRuleRULE_LEAST

	cursorPasses  = bpf.LBRuleFlagsRULE_CURSOR_PASSES
	hashPort      = bpf.LBRuleFlagsRULE_HASH_PORT
	hashDest      = bpf.LBRuleFlagsRULE_HASH_DEST
	hashFallback  = bpf.LBRuleFlagsRULE_HASH_FALLBACK
	hashSIP       = bpf.LBRuleFlagsRULE_HASH_SIP
	leastWeighted = bpf.LBRuleFlagsRULE_LEAST_WEIGHTED
	leastExpected = bpf.LBRuleFlagsRULE_LEAST_EXPECTED
	leastIdle     = bpf.LBRuleFlagsRULE_LEAST_IDLE
	emptyDrop     = bpf.LBRuleFlagsRULE_EMPTY_DROP // of no slots
)

// pick chooses a backend's id; 0: nobody can take it. What a run does not say,
// its backends' records do not say either: they may be newer.
func (m *model) pick(r *pool, p *pkt) uint32 {
	if r.count() == 0 {
		m.hit("pick: of nobody")
		return 0
	}
	switch r.rule {
	case ruleCursor:
		m.hit("pick: CURSOR")
		return m.pickCursor(r)
	case ruleHash:
		m.hit("pick: HASH")
		return m.pickHash(r, p)
	}
	m.hit("pick: LEAST")
	return m.pickLeast(r)
}

// usable says whether new flows may go to the backend of a slot.
func (m *model) usable(s slot) bool {
	switch {
	case s.id == 0:
		m.hit("pick: a slot with nobody")
	case s.closed:
		m.hit("pick: who takes nothing new")
	case m.isOverloaded(s.id):
		m.hit("pick: who is overloaded")
	default:
		return true
	}
	return false
}

func (m *model) isOverloaded(id uint32) bool {
	l := m.load[id]
	return l != nil && l.Overloaded != 0
}

// nearby is how many slots may be tried cheaply.
const nearby = 64

// pickCursor takes the first from the cursor on who can. If nobody can, rr
// stays where it is; wrr's walk ends at the top of the cycle, but where it
// began there or in the last pass it ends where it began.
func (m *model) pickCursor(r *pool) uint32 {
	n := uint64(len(r.slots))
	at := r.cursor % n
	for i := range n {
		s := r.slots[(at+i)%n]
		if !m.usable(s) {
			continue
		}
		if i > 0 {
			m.hit("pick: CURSOR passes over some")
		}
		if i > nearby {
			m.hit("pick: CURSOR passes over many")
		}
		r.cursor += i + 1
		return s.id
	}
	if n > nearby+1 {
		m.hit("pick: CURSOR finds nobody in a long run")
	}
	if r.flags&cursorPasses == 0 || at == 0 || at > uint64(r.last) {
		m.hit("pick: CURSOR finds nobody, and stays")
		return 0
	}
	m.hit("pick: CURSOR finds nobody, and goes to the top")
	if at == uint64(r.last) {
		m.hit("pick: CURSOR finds nobody from the last pass's first on")
	}
	r.cursor += n - at
	r.failed = uint32(r.cursor)
	return 0
}

// folded is an address as sh and its like see it.
func folded(a addr) uint32 {
	if a == mapped(a[12:]) {
		return binary.BigEndian.Uint32(a[12:])
	}
	var x uint32
	for i := 0; i < 16; i += 4 {
		x ^= binary.BigEndian.Uint32(a[i:])
	}
	return x
}

const golden32 = 0x61C88647

func (m *model) pickHash(r *pool, p *pkt) uint32 {
	x := folded(p.src)
	if r.flags&hashDest != 0 {
		x = folded(p.dst)
	}
	if r.flags&hashPort != 0 {
		x += uint32(p.sport)
	}
	n := uint32(r.count())
	first := uint32(uint64(x*golden32) * uint64(n) >> 32)
	if r.table != nil {
		m.hit("pick: HASH by a table")
		first = mhHash(x) % n
	}
	if s := r.at(first); m.usable(s) {
		return s.id
	}
	if r.flags&hashFallback == 0 {
		return 0
	}
	m.hit("pick: HASH falls back")
	for off := range n {
		next := ((off+first)%n + first) % n
		if r.table != nil {
			next = mhHash(x+(off+first)%n) % n
		}
		if s := r.at(next); m.usable(s) {
			if r.table != nil {
				m.hit("pick: HASH falls back by a table")
			}
			return s.id
		}
	}
	m.hit("pick: HASH finds nobody to fall back on")
	return 0
}

// pickLeast: least cost for its weight; of equals the first.
func (m *model) pickLeast(r *pool) uint32 {
	var best uint32
	var bestCost, bestWeight uint64
	for _, s := range r.slots {
		if !m.usable(s) {
			continue
		}
		l := m.loadOf(s.id)
		if r.flags&leastIdle != 0 && l.Active == 0 {
			m.hit("pick: LEAST finds who is idle")
			return s.id
		}
		cost, weight := uint64(l.Active)*256+uint64(l.Active+l.Inactive), uint64(1)
		if r.flags&leastExpected != 0 {
			cost = uint64(l.Active) + 1
		}
		if r.flags&leastWeighted != 0 {
			weight = uint64(s.weight)
		}
		if best == 0 || bestCost*weight > cost*bestWeight {
			best, bestCost, bestWeight = s.id, cost, weight
		}
	}
	if best == 0 {
		m.hit("pick: LEAST finds nobody")
	}
	return best
}

// mhHash is what mh makes of a client: the low half of SipHash-1-3 over the four
// bytes of a number, the lowest first.
func mhHash(x uint32) uint32 {
	const key = 2654435761
	return uint32(sipHash(key, key, binary.LittleEndian.AppendUint32(nil, x)))
}

// sipHash is SipHash-1-3: Aumasson and Bernstein, "SipHash: a fast short-input
// PRF", 2012, with one round a word and three at the end.
func sipHash(k0, k1 uint64, message []byte) uint64 {
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(message)) << 56
	for ; len(message) >= 8; message = message[8:] {
		w := binary.LittleEndian.Uint64(message)
		v3 ^= w
		round()
		v0 ^= w
	}
	for i, c := range message {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	round()
	v0 ^= last
	v2 ^= 0xff
	for range 3 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
