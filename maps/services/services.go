// SPDX-License-Identifier: Apache-2.0

// Package services handles the array of services: identity, published pool and
// settings.
package services

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// MaxCount is the longest run that a pool word can name.
const MaxCount = 1<<24 - 1

// Pool is the meaning of a service's pool word: the run that packets pick
// from. The zero Pool belongs to an unused service, or is not used.
type Pool struct {
	// Base is the index in slots of the run's header; 0 if Count is 0.
	Base uint32
	// Count is the number of slots, at most MaxCount.
	Count uint32
	Rule  sched.Rule
	Flags sched.Flags
}

// EmptyDrop is beside the flags of a rule, and counts where Count is 0: packets are
// dropped, not refused.
const EmptyDrop = sched.Flags(bpf.LBRuleFlagsRULE_EMPTY_DROP)

// Word returns the pool as it is published: base in bits 0-31, count in 32-55,
// rule in 56-59, flags in 60-63.
func (p Pool) Word() uint64 {
	return uint64(p.Base) | uint64(p.Count&MaxCount)<<32 | uint64(p.Rule&15)<<56 | uint64(p.Flags&15)<<60
}

// ParseWord is the inverse of Word.
func ParseWord(w uint64) Pool {
	return Pool{
		Base:  uint32(w),
		Count: uint32(w>>32) & MaxCount,
		Rule:  sched.Rule(w >> 56 & 15),
		Flags: sched.Flags(w >> 60),
	}
}

// Options are bits of enum service_options.
type Options = bpf.LBServiceOptions

// Settings are what a service says beside its pools.
type Settings struct {
	Affinity uint32 // seconds; 0: none
	Prefix   uint8  // of 128 bits of a client's address
	Options  Options
}

// word is how the settings lie in memory: affinity, prefix, options.
func (s Settings) word() uint64 {
	return uint64(s.Affinity) | uint64(s.Prefix)<<32 | uint64(uint8(s.Options))<<40
}

const (
	hashOffset  = uint32(unsafe.Offsetof(bpf.LBService{}.Hash))
	poolOffset  = uint32(unsafe.Offsetof(bpf.LBService{}.Pool))
	localOffset = uint32(unsafe.Offsetof(bpf.LBService{}.Local))
	settings    = uint32(unsafe.Offsetof(bpf.LBService{}.Affinity))
)

// Table is the map services. One goroutine writes.
type Table struct{ area *mmap.Area }

// Open maps the table's memory.
func Open(m *ebpf.Map) (*Table, error) {
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &Table{area}, nil
}

// Close unmaps the memory.
func (t *Table) Close() error { return t.area.Close() }

// Len returns the number of elements; 0 is never a service.
func (t *Table) Len() uint32 { return t.area.Len() }

// CopyFrom makes the table, which is new, say what a smaller one says.
func (t *Table) CopyFrom(from *Table) { t.area.CopyFrom(from.area) }

// SetHash stores the identity of service i; 0 frees it.
func (t *Table) SetHash(i uint32, hash uint64) { t.area.Store64(i, hashOffset, hash) }

// Hash returns the identity of service i.
func (t *Table) Hash(i uint32) uint64 { return t.area.Load64(i, hashOffset) }

// Publish makes packets pick from p, by one store. The run must be complete.
func (t *Table) Publish(i uint32, which lb.Pools, p Pool) {
	t.area.Store64(i, offsetOf(which), p.Word())
}

func offsetOf(which lb.Pools) uint32 {
	if which == lb.Local {
		return localOffset
	}
	return poolOffset
}

// Set stores the settings, by one store.
func (t *Table) Set(i uint32, s Settings) { t.area.Store64(i, settings, s.word()) }

// Pool returns what packets pick from.
func (t *Table) Pool(i uint32, which lb.Pools) Pool {
	return ParseWord(t.area.Load64(i, offsetOf(which)))
}

// Each yields the used elements, by batch lookups: local is the pool of this
// machine, zero if no frontend picks from it.
func Each(m *ebpf.Map, yield func(i uint32, hash uint64, cluster, local Pool, s Settings)) error {
	return batch.Each(m, func(i uint32, s *bpf.LBService) error {
		if s.Hash != 0 {
			yield(i, s.Hash, ParseWord(s.Pool), ParseWord(s.Local), Settings{s.Affinity, s.Prefix, Options(s.Options)})
		}
		return nil
	})
}
