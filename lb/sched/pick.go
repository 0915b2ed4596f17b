// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"encoding/binary"
	"net/netip"
)

// Position is where a Cursor run stands; the kernel keeps it in the run's
// header.
type Position struct {
	// Next is the next slot, modulo the run's length. It counts up from Start.
	Next uint64
	// Failed is the low half of Next if the last pick found nobody and sent the
	// walk to the top of the cycle, else anything; 0: none ever did.
	Failed uint32
}

// failed reports whether the last pick sent the walk to the top.
func (p Position) failed() bool { return p.Failed != 0 && p.Failed == uint32(p.Next) }

// Packet is what a pick looks at.
type Packet struct {
	Src, Dst netip.Addr
	SrcPort  uint16
}

// Table is what a pick sees of the world beside the run. The arguments are
// indices into Backends.
type Table interface {
	// Usable reports whether it has a weight, is healthy and not overloaded.
	Usable(i int) bool
	// Load is how many connections it has.
	Load(i int) (active, inactive uint32)
}

// Select picks as the kernel does: an index into Backends, or false if nobody
// can take the packet. Rules other than Cursor leave at alone.
func (r *Run) Select(p Packet, at *Position, t Table) (int, bool) {
	if len(r.Slots) == 0 {
		return 0, false
	}
	switch r.Rule {
	case Cursor:
		return r.next(at, t)
	case Hash:
		return r.hashed(p, t)
	case Least:
		return r.least(t)
	}
	return 0, false
}

func (r *Run) next(at *Position, t Table) (int, bool) {
	n := uint64(len(r.Slots))
	for k := range n {
		if i := int(r.Slots[(at.Next+k)%n]); t.Usable(i) {
			at.Next += k + 1
			return i, true
		}
	}
	// In its first place, and inside the last pass, wrr's walk comes back to
	// where it was; from elsewhere it ends behind a last pass.
	if i := at.Next % n; r.Flags&CursorPasses != 0 && i != 0 && i <= uint64(r.LastPass) {
		at.Next += n - i
		at.Failed = uint32(at.Next)
	}
	return 0, false
}

func (r *Run) hashed(p Packet, t Table) (int, bool) {
	addr := p.Src
	if r.Flags&HashDest != 0 {
		addr = p.Dst
	}
	key := folded(addr)
	if r.Flags&HashPort != 0 {
		key += uint32(p.SrcPort)
	}
	n := uint32(len(r.Slots))
	first := r.place(key)
	if i := int(r.Slots[first]); t.Usable(i) {
		return i, true
	}
	if r.Flags&HashFallback == 0 {
		return 0, false
	}
	for off := range n {
		again := (off + first) % n
		at := (again + first) % n
		if r.Flags&HashSip != 0 {
			at = r.place(key + again)
		}
		if i := int(r.Slots[at]); t.Usable(i) {
			return i, true
		}
	}
	return 0, false
}

// golden32 is the multiplier of the kernel's hash_32.
const golden32 = 0x61C88647

// place is the slot that a key hashes to.
func (r *Run) place(key uint32) uint32 {
	n := uint32(len(r.Slots))
	if r.Flags&HashSip != 0 {
		return siphash13(mhKey1, key) % n
	}
	return uint32(uint64(key*golden32) * uint64(n) >> 32)
}

// folded is an address as one number: IPv4 itself, IPv6 the exclusive or of its
// four words.
func folded(a netip.Addr) uint32 {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	var x uint32
	b := a.As16()
	for i := 0; i < len(b); i += 4 {
		x ^= binary.BigEndian.Uint32(b[i:])
	}
	return x
}

func (r *Run) least(t Table) (int, bool) {
	best, bestCost, bestWeight := -1, int64(0), int64(0)
	for _, slot := range r.Slots {
		i := int(slot)
		if !t.Usable(i) {
			continue
		}
		active, inactive := t.Load(i)
		if r.Flags&LeastIdle != 0 && active == 0 {
			return i, true
		}
		cost, weight := 257*int64(active)+int64(inactive), int64(1)
		if r.Flags&LeastExpected != 0 {
			cost = int64(active) + 1
		}
		if r.Flags&LeastWeighted != 0 {
			weight = int64(r.Backends[i].Weight)
		}
		if best < 0 || bestCost*weight > cost*bestWeight {
			best, bestCost, bestWeight = i, cost, weight
		}
	}
	return best, best >= 0
}
