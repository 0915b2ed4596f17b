// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// layout is where the map stats has what: the elements of CPU 0, one for each
// backend id, then those of CPU 1, and so on.
type layout struct{ cpus, ids uint32 }

func layoutOf(m *ebpf.Map) (layout, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return layout{}, fmt.Errorf("count possible CPUs: %w", err)
	}
	return layout{uint32(cpus), m.MaxEntries() / uint32(cpus)}, nil
}

// mapped is the map stats, seen through its memory.
type mapped struct {
	layout
	*mmap.Area
}

func openMapped(m *ebpf.Map) (*mapped, error) {
	l, err := layoutOf(m)
	if err != nil {
		return nil, err
	}
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &mapped{l, area}, nil
}

// words is how many an element has.
const words = uint32(unsafe.Sizeof(bpf.LBBackendStats{}) / 8)

// counted are the words of an element, or the sums of those of several.
type counted [words]uint64

// sum adds up the elements of an id.
func (s *mapped) sum(id uint32) (sum counted) {
	for cpu := range s.cpus {
		for word := range words {
			sum[word] += s.Load64(cpu*s.ids+id, 8*word)
		}
	}
	return sum
}

// EachStats yields the counters of the backend ids 0 to last, summed over the
// CPUs: from memory, which is mapped for that long, or by batch lookups if the
// descriptor is for reading only. These take ten times as long.
func EachStats(m *ebpf.Map, last uint32, yield func(id uint32, sum bpf.LBBackendStats)) (err error) {
	s, err := openMapped(m)
	if errors.Is(err, unix.EACCES) {
		return eachByBatch(m, last, yield)
	}
	if err != nil {
		return err
	}
	for id := range min(last+1, s.ids) {
		n := s.sum(id)
		yield(id, bpf.LBBackendStats{Connections: n[0], InPackets: n[1], InBytes: n[2], OutPackets: n[3], OutBytes: n[4]})
	}
	return s.Close()
}

func eachByBatch(m *ebpf.Map, last uint32, yield func(id uint32, sum bpf.LBBackendStats)) error {
	l, err := layoutOf(m)
	if err != nil {
		return err
	}
	sums := make([]bpf.LBBackendStats, min(last+1, l.ids))
	err = batch.Each(m, func(i uint32, v *bpf.LBBackendStats) error {
		if id := i % l.ids; id < uint32(len(sums)) {
			sum := &sums[id]
			sum.Connections += v.Connections
			sum.InPackets += v.InPackets
			sum.InBytes += v.InBytes
			sum.OutPackets += v.OutPackets
			sum.OutBytes += v.OutBytes
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, sum := range sums {
		yield(uint32(id), sum)
	}
	return nil
}

// Zero sets the counters of the ids to zero, on all CPUs. The memory is not mapped
// for that: a part for each CPU would show as this process's.
func Zero(m *ebpf.Map, ids []uint32) error {
	if len(ids) == 0 {
		return nil
	}
	l, err := layoutOf(m)
	if err != nil {
		return err
	}
	elements := make([]uint32, 0, len(ids)*int(l.cpus))
	for _, id := range ids {
		if id >= l.ids {
			return fmt.Errorf("zero the counters of backend %d in map %s: it has %d a CPU", id, m, l.ids)
		}
		for cpu := range l.cpus {
			elements = append(elements, cpu*l.ids+id)
		}
	}
	if _, err := m.BatchUpdate(elements, make([]bpf.LBBackendStats, len(elements)), nil); err != nil {
		return fmt.Errorf("zero %d entries of map %s: %w", len(ids), m, err)
	}
	return nil
}
