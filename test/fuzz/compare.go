// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// slack is how far a time in the kernel may be from the model's, in jiffies: a
// run that takes longer ends its world.
const slack = hz / 5

// flows reads the flow table.
func (k *kernel) flows() (map[key]flow, error) {
	out := make(map[key]flow, k.capacity)
	keys, values := make([]key, k.capacity), make([]flow, k.capacity)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := k.Flows.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read flows: %w", err)
		}
		for i := range n {
			out[keys[i]] = values[i]
		}
		if err != nil {
			return out, nil
		}
	}
}

func near(a, b uint32) bool { return a-b+slack <= 2*slack }

func near64(a, b uint64) bool { return a-b+slack <= 2*slack }

// sameFlow compares an entry: of a dead one only what counts.
func sameFlow(got, want flow) bool {
	if !near(got.Seen, want.Seen) {
		return false
	}
	if want.State == stDead {
		return got.State == stDead && got.Flags&fDirect == want.Flags&fDirect
	}
	got.Seen = want.Seen
	return got == want
}

func text(k key) string {
	return fmt.Sprintf("E%d %d %v -> %v", k.Position, k.Proto, end2(k.Saddr, k.Sport), end2(k.Daddr, k.Dport))
}

func end2(a addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}

func value(f flow) string {
	return fmt.Sprintf("to %v state %d flags %d backend %d seen %d packets %d bytes %d service %#x hash %#x",
		end2(f.Addr, f.Port), f.State, f.Flags, f.Backend, f.Seen, f.Packets, f.Bytes, f.ServiceHash, f.BackendHash)
}

// compareFlows says where the table is not what the model has.
func (m *model) compareFlows(got map[key]flow) error {
	var err error
	n := 0
	for _, e := range m.list {
		g, ok := got[e.key]
		if ok && sameFlow(g, e.flow) {
			continue
		}
		if n++; n > 5 {
			break
		}
		have := "not there"
		if ok {
			have = value(g)
		}
		err = errors.Join(err, fmt.Errorf("flows: %s\n  want %s\n   got %s", text(e.key), value(e.flow), have))
	}
	for k, g := range got {
		if m.flows[k] == nil {
			if n++; n > 5 {
				break
			}
			err = errors.Join(err, fmt.Errorf("flows: %s\n  want not there\n   got %s", text(k), value(g)))
		}
	}
	if len(got) != len(m.list) {
		err = errors.Join(err, fmt.Errorf("flows: %d entries, want %d", len(got), len(m.list)))
	}
	return err
}

// compare says where the maps are not what the model has.
func (m *model) compare(k *kernel) error {
	got, err := k.flows()
	if err != nil {
		return err
	}
	return errors.Join(m.compareFlows(got), m.compareDrops(k), m.compareLoad(k), m.compareAffinity(k))
}

func (m *model) compareDrops(k *kernel) error {
	var wrong error
	for r := range bpf.LBDropReasonDROP_MAX {
		n, err := k.dropped(r)
		if err != nil {
			return err
		}
		if n != m.drops[r] {
			wrong = errors.Join(wrong, fmt.Errorf("drops: %d of %v, want %d", n, r, m.drops[r]))
		}
	}
	return wrong
}

// dropped is a drop counter, of all CPUs.
func (k *kernel) dropped(r reason) (sum uint64, err error) {
	var n []uint64
	if err := k.Drops.Lookup(uint32(r), &n); err != nil {
		return 0, err
	}
	for _, c := range n {
		sum += c
	}
	return sum, nil
}

func (m *model) compareLoad(k *kernel) error {
	var wrong error
	ids, all := make([]uint32, m.lastID+1), make([]gauges, m.lastID+1)
	var cursor ebpf.MapBatchCursor
	if _, err := k.Load.BatchLookup(&cursor, ids, all, nil); err != nil {
		return fmt.Errorf("read load: %w", err)
	}
	for i, got := range all {
		var want gauges
		if l := m.load[ids[i]]; l != nil {
			want = *l
		}
		if got != want {
			wrong = errors.Join(wrong, fmt.Errorf("load of %d: %d active %d inactive overloaded %d, want %d, %d and %d", ids[i],
				got.Active, got.Inactive, got.Overloaded, want.Active, want.Inactive, want.Overloaded))
		}
	}
	return wrong
}

// compareRing says where the ring of half-open flows is not as it should be.
func (m *model) compareRing(k *kernel) error {
	var got bpf.LBHalfOpenRing
	if err := k.HalfOpenEnds.Lookup(uint32(0), &got); err != nil {
		return err
	}
	if got != m.ring.LBHalfOpenRing {
		return fmt.Errorf("half-open flows: %+v, want %+v", got, m.ring.LBHalfOpenRing)
	}
	return nil
}

// compareRuns says whose runs do not stand where the model has them.
func (m *model) compareRuns(k *kernel) error {
	var wrong error
	for _, s := range m.services {
		for i := range s.pools {
			wrong = errors.Join(wrong, s.compareRun(k, i))
		}
	}
	return wrong
}

func (s *service) compareRun(k *kernel, which int) error {
	r := &s.pools[which]
	if r.count() == 0 {
		return nil
	}
	var wrong error
	for i, want := range r.header() {
		var got uint64
		if err := k.Slots.Lookup(r.base+uint32(i), &got); err != nil {
			return err
		}
		if got != want {
			wrong = errors.Join(wrong, fmt.Errorf("word %d of run %d of service %d: %#x, want %#x", i, which, s.ID, got, want))
		}
	}
	return wrong
}

func (m *model) compareAffinity(k *kernel) error {
	var wrong error
	n := 0
	err := batch.Each(k.Affinity, func(key affinityKey, got *affinityEntry) error {
		n++
		want := m.affinity[key]
		if want == nil {
			wrong = errors.Join(wrong, fmt.Errorf("affinity of %v to %#x: %+v, want none", netip.AddrFrom16(key.Client), key.ServiceHash, *got))
			return nil
		}
		same := *got
		if near64(got.Expires, want.Expires) {
			same.Expires = want.Expires
		}
		if same != *want {
			wrong = errors.Join(wrong, fmt.Errorf("affinity of %v to %#x: %+v, want %+v", netip.AddrFrom16(key.Client), key.ServiceHash, *got, *want))
		}
		return nil
	})
	if n != len(m.affinity) {
		wrong = errors.Join(wrong, fmt.Errorf("affinity: %d clients, want %d", n, len(m.affinity)))
	}
	return errors.Join(err, wrong)
}
