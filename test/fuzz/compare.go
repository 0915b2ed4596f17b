// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
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
	return errors.Join(m.compareFlows(got), m.compareDrops(k), m.compareLoad(k))
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
	for id, want := range m.load {
		var got bpf.LBBackendLoad
		if err := k.Load.Lookup(id, &got); err != nil {
			return err
		}
		if got != *want {
			wrong = errors.Join(wrong, fmt.Errorf("load of %d: %d active %d inactive, want %d and %d", id, got.Active, got.Inactive, want.Active, want.Inactive))
		}
	}
	return wrong
}

// compareRest is what is looked at less often: counters, cursors, fragments,
// direct connections.
func (m *model) compareRest(k *kernel) error {
	var wrong error
	for id, want := range m.stats {
		var per []bpf.LBBackendStats
		if err := k.Stats.Lookup(id, &per); err != nil {
			return err
		}
		var got bpf.LBBackendStats
		for _, p := range per {
			got.Connections += p.Connections
			got.InPackets += p.InPackets
			got.InBytes += p.InBytes
			got.OutPackets += p.OutPackets
			got.OutBytes += p.OutBytes
		}
		if got != *want {
			wrong = errors.Join(wrong, fmt.Errorf("stats of %d: %+v, want %+v", id, got, *want))
		}
	}
	for _, s := range m.services {
		var cursor uint64
		if err := k.Slots.Lookup(s.base, &cursor); err != nil {
			return err
		}
		if cursor != s.cursor {
			wrong = errors.Join(wrong, fmt.Errorf("cursor of service %d: %d, want %d", s.ID, cursor, s.cursor))
		}
	}
	for name, x := range map[string]struct {
		m    *ebpf.Map
		want int
	}{"fragments": {k.Fragments, len(m.datagrams)}, "held": {k.Held, m.heldCount}, "direct": {k.Direct, len(m.direct)}} {
		n, err := countKeys(x.m, false)
		if err != nil {
			return err
		}
		if n != x.want {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %d, want %d", name, n, x.want))
		}
	}
	return wrong
}

// countKeys counts a map's keys, and deletes them if told to.
func countKeys(m *ebpf.Map, remove bool) (int, error) {
	var keys [][]byte
	var prev any
	for {
		k, err := m.NextKeyBytes(prev)
		if err != nil {
			return 0, fmt.Errorf("read %v: %w", m, err)
		}
		if k == nil {
			break
		}
		keys = append(keys, k)
		prev = k
	}
	for _, k := range keys {
		if remove {
			if err := m.Delete(k); err != nil {
				return 0, fmt.Errorf("empty %v: %w", m, err)
			}
		}
	}
	return len(keys), nil
}

// sweeper walks the flow table.
type sweeper struct{ it *link.Iter }

func newSweeper(k *kernel) (*sweeper, error) {
	it, err := link.AttachIter(link.IterOptions{Program: k.Sweep, Map: k.Flows})
	if err != nil {
		return nil, fmt.Errorf("attach the sweeper: %w", err)
	}
	return &sweeper{it}, nil
}

func (s *sweeper) Close() { _ = s.it.Close() }

func (s *sweeper) walk() error {
	r, err := s.it.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}
