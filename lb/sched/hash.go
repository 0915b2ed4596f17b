// SPDX-License-Identifier: Apache-2.0

package sched

import "github.com/waggle-lb/waggle/lb"

// The schedulers that hash an address into a table of buckets. A backend that
// cannot serve keeps its buckets.
var (
	sh = Scheduler{
		Name:    "sh",
		Doc:     "source hashing: a client stays at one backend",
		Rule:    Hash,
		Flags:   lb.SchedulerFallback | lb.SchedulerPort,
		compile: compileSH,
	}
	dh = Scheduler{
		Name:    "dh",
		Doc:     "destination hashing: a destination stays at one backend, weights other than 0 ignored",
		Rule:    Hash,
		compile: compileDH,
	}
)

// buckets is CONFIG_IP_VS_SH_TAB_BITS and CONFIG_IP_VS_DH_TAB_BITS as
// distributions have them: 8.
const buckets = 256

func compileSH(r, _ *Run, _ Position) {
	r.Slots = fillBuckets(r.Backends, func(b *lb.Backend) int {
		if b.Usable() {
			return int(b.Weight)
		}
		return 1
	})
}

func compileDH(r, _ *Run, _ Position) {
	r.Flags = HashDest
	r.Slots = fillBuckets(r.Backends, func(*lb.Backend) int { return 1 })
}

// fillBuckets walks the list round and round and gives each backend its turns.
func fillBuckets(list []lb.Backend, turns func(*lb.Backend) int) []uint16 {
	if len(list) == 0 {
		return nil
	}
	out := make([]uint16, 0, buckets)
	for i := 0; len(out) < buckets; i = (i + 1) % len(list) {
		for range min(turns(&list[i]), buckets-len(out)) {
			out = append(out, uint16(i))
		}
	}
	return out
}
