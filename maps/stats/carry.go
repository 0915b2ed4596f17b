// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
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

// StatsCarry brings the counters of one map stats to a larger one.
type StatsCarry struct {
	former  *mapped
	to      *mmap.Area
	carried []counted
}

// CarryStats copies the counters of one map to a larger one that no program uses
// yet.
func CarryStats(former, to *ebpf.Map) (_ *StatsCarry, err error) {
	c := &StatsCarry{}
	if c.former, err = openMapped(former); err != nil {
		return nil, err
	}
	if c.to, err = mmap.Open(to); err != nil {
		return nil, errors.Join(err, c.former.Close())
	}
	c.carried = make([]counted, c.former.ids)
	c.Run()
	return c, nil
}

// Close unmaps the memory.
func (c *StatsCarry) Close() error { return errors.Join(c.former.Close(), c.to.Close()) }

// Run carries what was counted since the last time, to the elements of CPU 0. Of a
// backend that it counts for at that moment it may lose a packet.
func (c *StatsCarry) Run() {
	for id := range c.former.ids {
		now, carried := c.former.sum(id), &c.carried[id]
		if now == *carried {
			continue
		}
		for word := range words {
			c.to.Add64(id, 8*word, now[word]-carried[word])
		}
		*carried = now
	}
}
