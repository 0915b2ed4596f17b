// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math/bits"

	"github.com/waggle-lb/waggle/lb"
)

const mhName = "mh"

// mh is Maglev hashing: each backend has a permutation of the table's slots of
// its own, and they take turns at the first that is free.
var mh = Scheduler{
	Name:    mhName,
	Doc:     "Maglev hashing: a client stays at one backend, also when most others change",
	Rule:    Hash,
	Flags:   lb.SchedulerFallback | lb.SchedulerPort,
	compile: compileMH,
}

const (
	// mhSlots and mhBits are what CONFIG_IP_VS_MH_TAB_INDEX=12 makes, which
	// distributions have.
	mhSlots = 4093
	mhBits  = 6

	mhKey1 = 2654435761
	mhKey2 = 2654446892
)

type mhTable [mhSlots]uint16

func compileMH(r, _ *Run, _ Position) {
	r.Flags |= HashSip
	if turns := mhTurns(r); turns != nil {
		r.Slots = sharedTable(r.Backends, turns)[:]
	}
}

// mhTurns is how many slots each backend takes in a round; nil if none takes
// any. A weight of 0 does not count: the last other one does, so that a backend
// that is quiesced keeps its slots.
func mhTurns(r *Run) []uint8 {
	div, top := 0, 0
	for i := range r.Backends {
		w := int(r.lastWeight(i))
		div, top = gcd(div, w), max(top, w)
	}
	if top == 0 {
		return nil
	}
	shift := max(0, bits.Len(uint(top/div))-mhBits)
	out := make([]uint8, len(r.Backends))
	for i := range out {
		if w := int(r.lastWeight(i)); w > 0 {
			out[i] = uint8(max(1, w/div>>shift))
		}
	}
	return out
}

// walker is a backend's way through its permutation.
type walker struct {
	pos, skip uint32
	index     uint16
	turns     uint8
}

func newWalker(i int, b *lb.Backend, turns uint8) walker {
	key := folded(b.Addr.Addr()) + uint32(b.Addr.Port())
	return walker{siphash13(mhKey1, key) % mhSlots, siphash13(mhKey2, key)%(mhSlots-1) + 1, uint16(i), turns}
}

// fillTable has all turns taken until no slot is free.
func fillTable(t *mhTable, list []lb.Backend, turns []uint8) {
	const free = MaxBackends // no index
	for i := range t {
		t[i] = free
	}
	walkers := make([]walker, 0, len(list))
	for i := range list {
		if turns[i] > 0 {
			walkers = append(walkers, newWalker(i, &list[i], turns[i]))
		}
	}
	for left := mhSlots; ; {
		for i := range walkers {
			w := &walkers[i]
			for range w.turns {
				for t[w.pos] != free {
					if w.pos += w.skip; w.pos >= mhSlots {
						w.pos -= mhSlots
					}
				}
				t[w.pos] = w.index
				if left--; left == 0 {
					return
				}
			}
		}
	}
}
