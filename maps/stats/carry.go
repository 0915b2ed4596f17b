// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// Carry brings the counts of one map load to a larger one, while programs count
// in both. What it has carried stands in a third map, so that any process can
// go on with it at any time.
type Carry struct{ former, carried, to *mmap.Area }

// OpenCarry maps the memory of the three maps.
func OpenCarry(former, carried, to *ebpf.Map) (_ *Carry, err error) {
	c := &Carry{}
	for m, area := range map[*ebpf.Map]**mmap.Area{former: &c.former, carried: &c.carried, to: &c.to} {
		if *area, err = mmap.Open(m); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close unmaps the memory.
func (c *Carry) Close() error {
	var errs []error
	for _, a := range []*mmap.Area{c.former, c.carried, c.to} {
		if a != nil {
			errs = append(errs, a.Close())
		}
	}
	return errors.Join(errs...)
}

// Run carries what was counted since the last run. Active and inactive are one
// word, whose sum is right also while a half of it is below zero. The
// larger map says who is overloaded once its owner judges.
func (c *Carry) Run() {
	const counts = uint32(unsafe.Offsetof(bpf.LBBackendLoad{}.Active))
	for id := range c.former.Len() {
		if more := c.former.Load64(id, counts) - c.carried.Load64(id, counts); more != 0 {
			c.to.Add64(id, counts, more)
			c.carried.Add64(id, counts, more)
		}
	}
}

// CarryStats copies the counters of the ids 0 to last from one map stats to a
// larger one that no program uses yet. The function it returns adds what was
// counted in between and since; of a backend that is counting at that moment it
// may lose the packets of some microseconds.
func CarryStats(from, to *ebpf.Map, last uint32) (add func() error, err error) {
	sums := make([]bpf.LBBackendStats, last+1)
	var failed error
	err = batch.EachPerCPU(from, last, func(id uint32, values []bpf.LBBackendStats) {
		if sums[id] = sum(values); sums[id] != (bpf.LBBackendStats{}) && failed == nil {
			failed = to.Put(id, values)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("copy map %s: %w", from, err)
	}
	return func() error { return addStats(from, to, sums) }, nil
}

// addStats adds to one map what another counted beyond sums.
func addStats(from, to *ebpf.Map, sums []bpf.LBBackendStats) error {
	var failed error
	err := EachStats(from, uint32(len(sums)-1), func(id uint32, now bpf.LBBackendStats) {
		if now == sums[id] || failed != nil {
			return
		}
		var values []bpf.LBBackendStats
		if failed = to.Lookup(id, &values); failed == nil {
			values[0] = sum([]bpf.LBBackendStats{values[0], less(now, sums[id])})
			failed = to.Put(id, values)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("copy map %s: %w", from, err)
	}
	return nil
}

func less(a, b bpf.LBBackendStats) bpf.LBBackendStats {
	a.Connections -= b.Connections
	a.InPackets -= b.InPackets
	a.InBytes -= b.InBytes
	a.OutPackets -= b.OutPackets
	a.OutBytes -= b.OutBytes
	return a
}
