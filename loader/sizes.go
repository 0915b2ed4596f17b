// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Sizes are how many entries maps get that outlive the process: docs/limits.md.
// 0: not said.
type Sizes struct {
	Flows     uint32 // the flow table to begin with
	FlowsMax  uint32 // what it may grow to
	HalfOpen  uint32 // a power of 2
	Direct    uint32
	Affinity  uint32
	Fragments uint32
	Held      uint32
}

// sizeFlags are the flags of `waggle run` by the map whose size they say.
var sizeFlags = map[string]string{
	flowsMap: "--flows-min", nextMap: "--flows-max", "half_open": "--half-open-max", "direct": "--direct-max",
	"affinity": "--affinity-max", "fragments": "--fragments-max", "held": "--held-fragments-max",
}

// sized is a size with the map that it is of, and how memory decides it.
type sized struct {
	name  string
	size  *uint32
	bytes uint64 // an entry, as docs/limits.md measures it
	share uint64 // of the memory: one part in so many
	// least and most bound what memory decides. What a user may say is bounded
	// by smallest and largest.
	least, most uint32
}

const (
	flowsBegin = 1 << 17 // entries that the flow table has at first, if it may have as many
	smallest   = 1 << 8
	largest    = 1 << 26
)

func (s *Sizes) all() []sized {
	return []sized{
		{nextMap, &s.FlowsMax, 160, 16, 1 << 15, 1 << 23},
		{"affinity", &s.Affinity, 120, 256, 1 << 13, 1 << 20},
		{"direct", &s.Direct, 112, 512, 1 << 12, 1 << 18},
		{"fragments", &s.Fragments, 128, 4096, 1 << 10, 1 << 15},
		{"held", &s.Held, 1617, 2048, 1 << 8, 1 << 12},
	}
}

// For returns what a machine, or a control group, of so many bytes of
// memory gets, where s does not say otherwise.
func (s Sizes) For(memory uint64) Sizes {
	for _, c := range s.all() {
		if *c.size == 0 {
			*c.size = min(max(powerOf2(memory/c.share/c.bytes), c.least), c.most)
			if c.name == nextMap {
				*c.size = max(*c.size, s.Flows)
			}
		}
	}
	if s.Flows == 0 {
		s.Flows = min(s.FlowsMax, flowsBegin)
	}
	if s.HalfOpen == 0 {
		s.HalfOpen = min(max(powerOf2(uint64(s.FlowsMax/4)), 1<<10), 1<<20)
	}
	return s
}

// powerOf2 returns the largest that is not above n; 0 of 0.
func powerOf2(n uint64) uint32 {
	if n == 0 {
		return 0
	}
	return uint32(min(uint64(1)<<(bits.Len64(n)-1), 1<<31))
}

// Check says what is wrong with what a user said, by the names of the flags.
func (s Sizes) Check() error {
	for _, c := range append(s.all(), sized{name: flowsMap, size: &s.Flows}, sized{name: "half_open", size: &s.HalfOpen}) {
		if n := *c.size; n != 0 && (n < smallest || n > largest) {
			return fmt.Errorf("%s %d: write %d to %d entries, or 0 for what the memory allows", sizeFlags[c.name], n, smallest, largest)
		}
	}
	if s.HalfOpen&(s.HalfOpen-1) != 0 {
		return fmt.Errorf("%s %d: write a power of 2: %d or %d", sizeFlags["half_open"], s.HalfOpen, powerOf2(uint64(s.HalfOpen)), 2*powerOf2(uint64(s.HalfOpen)))
	}
	if s.Flows > 0 && s.FlowsMax > 0 && s.Flows > s.FlowsMax {
		return fmt.Errorf("%s %d is more than %s %d: the flow table grows from the one to the other", sizeFlags[flowsMap], s.Flows, sizeFlags[nextMap], s.FlowsMax)
	}
	return nil
}

// write sets the sizes of maps that are yet to be made.
func (s Sizes) write(spec *ebpf.CollectionSpec) {
	for name, n := range map[string]uint32{
		flowsMap: s.Flows, "half_open": s.HalfOpen, "direct": s.Direct, "affinity": s.Affinity, "fragments": s.Fragments, "held": s.Held,
	} {
		if n > 0 {
			spec.Maps[name].MaxEntries = n
		}
	}
}

// sizeError says what a map that cannot be made has to do with memory.
func sizeError(name string, entries uint32, err error) error {
	if flag := sizeFlags[name]; flag != "" && (errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.E2BIG)) {
		return fmt.Errorf("make map %s of %d entries: %w: the memory, or the control group's memory.max, does not hold it: raise that, or lower %s", name, entries, err, flag)
	}
	return fmt.Errorf("make map %s of %d entries: %w", name, entries, err)
}
