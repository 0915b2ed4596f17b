// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math/bits"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/slots"
)

// fillable are the maps that can fill up, in the order in which they are shown.
// load, stats and backend_ids are as full as backends; what else is not here has a place for
// everything that there can be.
var fillable = []struct {
	name   string
	used   func(*Pins, *cilium.Map) (uint32, error)
	places uint32 // of an element
}{
	{"flows", entries[bpf.LBFlowKey, bpf.LBFlow], 1},
	{"flows_next", entries[bpf.LBFlowKey, bpf.LBFlow], 1}, // only while it grows
	{"half_open", (*Pins).ringUsed, 1},
	{"affinity", entries[bpf.LBAffinityKey, bpf.LBAffinityEntry], 1},
	{"direct", entries[bpf.LBFlowKey, uint32], 1},
	{"fragments", entries[bpf.LBFragmentKey, bpf.LBFragment], 1},
	{"held", entries[bpf.LBHeldKey, bpf.LBHeld], 1},
	{"vips", entries[bpf.LBVipKey, bpf.LBVip], 1},
	{"services", taken(func(s *bpf.LBService) bool { return s.Hash != 0 }), 1},
	{"service_info", entries[uint64, bpf.LBServiceName], 1},
	{"slots", (*Pins).slotsUsed, 1},
	{"backends", taken(func(b *bpf.LBBackend) bool { return b.Hash != 0 }), 1},
	{"node_addrs", entries[[16]byte, uint32], 1},
	{"devices", entries[uint32, bpf.LBDevice], 1},
	{"vip_bits", bitsSet, 64},
	{"peer_bits", bitsSet, 64},
	{"backend_bits", bitsSet, 64},
	{"masq_bits", bitsSet, 64},
	{"node_port_bits", bitsSet, 64},
	{"prefixes", networks[bpf.LBPrefixKey], 1},
	{"source_ranges", networks[bpf.LBSourceKey], 1},
}

// fills walks the maps that can fill up.
func (p *Pins) fills() (out []dataplane.Fill, err error) {
	for _, f := range fillable {
		m := p.pinned.Maps[f.name]
		if m == nil {
			continue
		}
		used, err := f.used(p, m)
		if err != nil {
			return nil, fmt.Errorf("see how full map %s is: %w", f.name, err)
		}
		out = append(out, dataplane.Fill{Map: f.name, Used: used, Limit: m.MaxEntries() * f.places})
	}
	return out, nil
}

// entries counts the elements of a hash.
func entries[K, V any](_ *Pins, m *cilium.Map) (n uint32, err error) {
	err = batch.Each(m, func(K, *V) error {
		n++
		return nil
	})
	return n, err
}

// networks counts the elements of a trie, which has no batch lookup.
func networks[K any](_ *Pins, m *cilium.Map) (n uint32, err error) {
	var k K
	var v uint32
	it := m.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	return n, it.Err()
}

// taken counts the elements of an array that are somebody's.
func taken[V any](is func(*V) bool) func(*Pins, *cilium.Map) (uint32, error) {
	return func(_ *Pins, m *cilium.Map) (n uint32, err error) {
		err = batch.Each(m, func(_ uint32, v *V) error {
			if is(v) {
				n++
			}
			return nil
		})
		return n, err
	}
}

func bitsSet(_ *Pins, m *cilium.Map) (n uint32, err error) {
	err = batch.Each(m, func(_ uint32, word *uint64) error {
		n += uint32(bits.OnesCount64(*word))
		return nil
	})
	return n, err
}

// ringUsed is how many flows are half-open: each has a place.
func (p *Pins) ringUsed(*cilium.Map) (uint32, error) {
	ring, err := ringOf(p.pinned.Maps["half_open_ends"])
	return uint32(ring.Count), err
}

// slotsUsed counts the words of the runs that are published and of their
// tables. Those that rest, or went with a service whose connections go on, are
// free soon, and not counted.
func (p *Pins) slotsUsed(m *cilium.Map) (words uint32, err error) {
	c, err := p.contents()
	if err != nil {
		return 0, err
	}
	tables := make(map[uint64]bool)
	for _, s := range c.services {
		for i, pool := range s.pools {
			n, err := poolWords(m, pool, s.members(bothPools[i]), tables)
			if err != nil {
				return 0, err
			}
			words += n
		}
	}
	return words, nil
}

// poolWords counts those of one run, which was made of so many backends, and of its
// table, if that is not among tables yet.
func poolWords(m *cilium.Map, pool services.Pool, backends int, tables map[uint64]bool) (words uint32, err error) {
	switch {
	case pool.Count == 0:
		return 0, nil
	case pool.Rule == sched.Hash && pool.Flags&sched.HashSip != 0:
		var table uint64
		if err := m.Lookup(pool.Base, &table); err != nil {
			return 0, err
		}
		if words = slots.Words(backends); !tables[table] {
			tables[table] = true
			words += slots.TableWords(int(pool.Count))
		}
		return words, nil
	case pool.Rule == sched.Least:
		return slots.WeightedWords(int(pool.Count)), nil
	}
	return slots.Words(int(pool.Count)), nil
}
