// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package stats

import (
	"sync"
	"sync/atomic"
	"testing"

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
	from, to := maptest.New(t, "stats", 8), maptest.New(t, "stats", 16)
	count := func(id uint32, m interface {
		Lookup(any, any) error
		Put(any, any) error
	}, packets uint64) {
		var v []bpf.LBBackendStats
		if err := m.Lookup(id, &v); err != nil {
			t.Fatal(err)
		}
		v[len(v)-1].InPackets += packets
		v[len(v)-1].InBytes += 100 * packets
		if err := m.Put(id, v); err != nil {
			t.Fatal(err)
		}
	}
	count(2, from, 5)
	count(7, from, 6)
	add, err := CarryStats(from, to, 7)
	if err != nil {
		t.Fatal(err)
	}
	count(2, from, 10)
	count(2, to, 20)
	count(15, to, 1)
	if err := add(); err != nil {
		t.Fatal(err)
	}
	want := map[uint32]uint64{2: 35, 7: 6, 15: 1}
	if err := EachStats(to, 15, func(id uint32, got bpf.LBBackendStats) {
		if got.InPackets != want[id] || got.InBytes != 100*want[id] {
			t.Errorf("id %d: %+v, want %d packets", id, got, want[id])
		}
	}); err != nil {
		t.Fatal(err)
	}
}
