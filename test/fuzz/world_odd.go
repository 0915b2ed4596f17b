// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

// oddRun is a run that no scheduler makes.
func (w *world) oddRun(r *rand.Rand, ids []uint32, rule bpf.LBRule) pool {
	out := pool{rule: rule}
	all := oddSlots(r, ids, rule)
	if len(all) == 0 {
		out.flags = bpf.LBRuleFlags(r.IntN(8)) // nothing reads them
		return out
	}
	for range r.IntN(12) {
		out.slots = append(out.slots, all[r.IntN(len(all))])
	}
	switch out.rule {
	case ruleCursor:
		return oddCursor(r, out.slots, all)
	case ruleHash:
		return oddHash(r, append(out.slots, all...))
	}
	out.slots, out.flags = append(out.slots, all...), bpf.LBRuleFlags(r.IntN(8))
	return out
}

// oddSlots has each backend of a pool once; some are closed that serve, and some
// are not that do not.
func oddSlots(r *rand.Rand, ids []uint32, rule bpf.LBRule) (out []slot) {
	closed := pick(r, 1, 1, 1, 3, 4) // of four
	for _, id := range ids {
		out = append(out, slot{id, uint16(1 + r.IntN(9)), rule != ruleLeast && r.IntN(4) < closed})
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// oddCursor walks some slots, or many of one that is closed if any is, and all
// in its last pass.
func oddCursor(r *rand.Rand, some, all []slot) pool {
	if r.IntN(2) == 0 {
		i := max(0, slices.IndexFunc(all, func(s slot) bool { return s.closed }))
		some = slices.Repeat(all[i:i+1], r.IntN(300))
	}
	out := pool{rule: ruleCursor, flags: bpf.LBRuleFlags(r.IntN(2)), slots: append(some, all...), cursor: r.Uint64() >> r.IntN(64)}
	if out.flags != 0 || r.IntN(2) == 0 {
		out.last = uint32(len(some))
	}
	if r.IntN(4) == 0 {
		out.cursor = uint64(out.last)
	}
	return out
}

// oddHash is a run of any number of slots, with a table or without.
func oddHash(r *rand.Rand, slots []slot) pool {
	out := pool{rule: ruleHash, flags: bpf.LBRuleFlags(r.IntN(8)), slots: slots}
	if r.IntN(2) == 0 {
		out.slots = append(out.slots, slot{})
	}
	if r.IntN(2) == 0 {
		out.flags |= hashSIP
		for range 1 + r.IntN(60) {
			out.table = append(out.table, uint16(r.IntN(len(out.slots))))
		}
	}
	return out
}
