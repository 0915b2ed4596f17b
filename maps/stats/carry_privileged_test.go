// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package stats

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// While counts are carried, flows begin in the map of before and end in the
// other one.
func TestCarryLosesNothing(t *testing.T) {
	const n, rounds = 8, 20000
	former, carried, to := maptest.New(t, "load", n), maptest.New(t, "load", n), maptest.New(t, "load", 2*n)
	for id := range uint32(n) {
		if err := former.Put(id, bpf.LBBackendLoad{Active: 3, Inactive: id}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := OpenCarry(former, carried, to)
	if err != nil {
		t.Fatal(err)
	}
	c.Run()
	var done atomic.Int32
	var wg sync.WaitGroup
	programs := func(add uint64, a *mmap.Area) {
		for i := range uint32(rounds) {
			a.Add64(i%n, 0, add)
		}
		done.Add(1)
	}
	wg.Go(func() { programs(1<<32+1, c.former) })
	wg.Go(func() { programs(^uint64(0), c.to) }) // one active less
	for done.Load() < 2 {
		c.Run()
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err = OpenCarry(former, carried, to); err != nil { // another process
		t.Fatal(err)
	}
	c.Run()
	c.Run()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for id := range uint32(n) {
		var l bpf.LBBackendLoad
		if err := to.Lookup(id, &l); err != nil {
			t.Fatal(err)
		}
		if want := (bpf.LBBackendLoad{Active: 3, Inactive: id + rounds/n}); l.Active != want.Active || l.Inactive != want.Inactive {
			t.Errorf("id %d: %+v, want %+v", id, l, want)
		}
	}
}

func TestCountersAreCarriedToALargerMap(t *testing.T) {
	const ids, larger = 8, 16
	from, to := newStats(t, ids), newStats(t, larger)
	last := uint32(ebpf.MustPossibleCPU() - 1)
	count := func(m *ebpf.Map, element uint32, packets uint64) {
		t.Helper()
		var v bpf.LBBackendStats
		if err := m.Lookup(element, &v); err != nil {
			t.Fatal(err)
		}
		v.InPackets += packets
		v.InBytes += 100 * packets
		put(t, m, element, v)
	}
	count(from, 2, 5)
	count(from, last*ids+7, 6)
	carry, err := CarryStats(from, to)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint32]uint64{2: 5, 7: 6}
	compare := func() {
		t.Helper()
		for id, got := range each(t, to, 15) {
			if got.InPackets != want[id] || got.InBytes != 100*want[id] {
				t.Errorf("id %d: %+v, want %d packets", id, got, want[id])
			}
		}
	}
	compare()
	count(from, last*ids+2, 10)
	count(to, last*larger+2, 20)
	count(to, 15, 1)
	carry.Run()
	want = map[uint32]uint64{2: 35, 7: 6, 15: 1}
	compare()
	carry.Run() // nothing was counted since
	compare()
	if err := carry.Close(); err != nil {
		t.Error(err)
	}
}
