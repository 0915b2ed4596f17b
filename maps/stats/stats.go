// SPDX-License-Identifier: Apache-2.0

// Package stats handles what the programs count: the gauges and counters of
// backends, and drops.
package stats

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// Load is the map load, seen through its memory.
type Load struct{ area *mmap.Area }

// OpenLoad maps the memory of the map load.
func OpenLoad(m *ebpf.Map) (*Load, error) {
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &Load{area}, nil
}

// Close unmaps the memory.
func (l *Load) Close() error { return l.area.Close() }

// IsZero reports whether backend id has no flow entry.
func (l *Load) IsZero(id uint32) bool {
	return l.entries(id) == 0
}

// entries is how many flow entries an element counts.
func (l *Load) entries(id uint32) uint32 {
	const counts = uint32(unsafe.Offsetof(bpf.LBBackendLoad{}.Active))
	n := l.area.Load64(id, counts)
	return uint32(n) + uint32(n>>32)
}

// Judge says whether backend id is overloaded once its thresholds are others, as
// IPVS does when a server is edited: between the two it stays what it was.
// upper 0 is no threshold, lower 0 is upper less a quarter.
func (l *Load) Judge(id, upper, lower uint32) {
	const overloaded = uint32(unsafe.Offsetof(bpf.LBBackendLoad{}.Overloaded))
	if lower == 0 {
		lower = upper - upper/4
	}
	switch n := l.entries(id); {
	case upper == 0 || n < lower && n < upper:
		if l.area.Load32(id, overloaded) != 0 { // a store costs more
			l.area.Store32(id, overloaded, 0)
		}
	case n >= upper:
		l.area.Store32(id, overloaded, 1)
	}
}

// EachLoad yields the load of the backend ids 0 to last, by batch lookups.
func EachLoad(m *ebpf.Map, last uint32, yield func(id uint32, l bpf.LBBackendLoad)) error {
	return batch.Each(m, func(id uint32, l *bpf.LBBackendLoad) error {
		if id <= last {
			yield(id, *l)
		}
		return nil
	})
}

// EachDrop yields the number of packets by enum drop_reason, summed over the
// CPUs.
func EachDrop(m *ebpf.Map, yield func(reason uint32, packets uint64)) error {
	return batch.EachPerCPU(m, func(reason uint32, values []uint64) {
		var sum uint64
		for _, v := range values {
			sum += v
		}
		yield(reason, sum)
	})
}
