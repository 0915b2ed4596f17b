// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package stats

import (
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func put(t *testing.T, m *ebpf.Map, key, value any) {
	t.Helper()
	if err := m.Put(key, value); err != nil {
		t.Fatal(err)
	}
}

// newStats makes a map stats for so many ids.
func newStats(t *testing.T, ids uint32) *ebpf.Map {
	t.Helper()
	return maptest.New(t, "stats", ids*uint32(ebpf.MustPossibleCPU()))
}

// readOnly opens a map again, for reading only.
func readOnly(t *testing.T, m *ebpf.Map) *ebpf.Map {
	t.Helper()
	pin := fmt.Sprintf("/sys/fs/bpf/waggle-test-stats-%d", os.Getpid())
	if err := m.Pin(pin); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Unpin(); err != nil {
			t.Error(err)
		}
	}()
	ro, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ro.Close(); err != nil {
			t.Error(err)
		}
	})
	return ro
}

// enter enters counters for the ids 1 to n-1 of a map for n, on all CPUs.
func enter(t *testing.T, m *ebpf.Map, n uint32) map[uint32]bpf.LBBackendStats {
	t.Helper()
	want := map[uint32]bpf.LBBackendStats{0: {}}
	for id := uint32(1); id < n; id++ {
		var sum bpf.LBBackendStats
		for cpu := range uint32(ebpf.MustPossibleCPU()) {
			u := uint64(id) << (8 * cpu)
			put(t, m, cpu*n+id, bpf.LBBackendStats{Connections: u, InPackets: 2 * u, InBytes: 3 * u, OutPackets: 5 * u, OutBytes: 7 * u})
			sum.Connections += u
			sum.InPackets += 2 * u
			sum.InBytes += 3 * u
			sum.OutPackets += 5 * u
			sum.OutBytes += 7 * u
		}
		want[id] = sum
	}
	return want
}

func each(t *testing.T, m *ebpf.Map, last uint32) map[uint32]bpf.LBBackendStats {
	t.Helper()
	got := make(map[uint32]bpf.LBBackendStats)
	if err := EachStats(m, last, func(id uint32, sum bpf.LBBackendStats) { got[id] = sum }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCountersAreSumsOverTheCPUs(t *testing.T) {
	m := newStats(t, 8)
	want := enter(t, m, 8)
	testCountersAreSums(t, m, maps.Clone(want))
	testCountersAreSums(t, readOnly(t, m), want)
}

func testCountersAreSums(t *testing.T, m *ebpf.Map, want map[uint32]bpf.LBBackendStats) {
	t.Helper()
	for _, last := range []uint32{100, 7} { // there are no others
		if d := cmp.Diff(want, each(t, m, last)); d != "" {
			t.Errorf("to %d (-want +got):\n%s", last, d)
		}
	}
	delete(want, 7)
	if d := cmp.Diff(want, each(t, m, 6)); d != "" {
		t.Errorf("to 6 (-want +got):\n%s", d)
	}
}

func TestZeroZeroesTheseIDsOnAllCPUs(t *testing.T) {
	m := newStats(t, 8)
	want := enter(t, m, 8)
	for _, ids := range [][]uint32{nil, {2, 7, 3}} {
		if err := Zero(m, ids); err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			want[id] = bpf.LBBackendStats{}
		}
		if d := cmp.Diff(want, each(t, m, 7)); d != "" {
			t.Errorf("without %v (-want +got):\n%s", ids, d)
		}
	}
	if err := Zero(m, []uint32{8}); err == nil {
		t.Error("an id outside of the map is zeroed")
	}
	if d := cmp.Diff(want, each(t, m, 7)); d != "" {
		t.Errorf("after that (-want +got):\n%s", d)
	}
}

func TestLoadIsZeroWithoutAnyFlow(t *testing.T) {
	m := maptest.New(t, "load", 600)
	l, err := OpenLoad(m)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	put(t, m, uint32(1), bpf.LBBackendLoad{Active: 1})
	put(t, m, uint32(2), bpf.LBBackendLoad{Inactive: 1})
	put(t, m, uint32(599), bpf.LBBackendLoad{Active: 1 << 31, Inactive: 3, Overloaded: 1})
	for id, want := range map[uint32]bool{0: true, 1: false, 2: false, 3: true, 599: false} {
		if got := l.IsZero(id); got != want {
			t.Errorf("load of %d is zero: %v, want %v", id, got, want)
		}
	}
	for _, c := range []struct {
		last uint32
		want map[uint32][3]uint32 // active, inactive, overloaded
	}{
		{599, map[uint32][3]uint32{1: {1, 0, 0}, 2: {0, 1, 0}, 599: {1 << 31, 3, 1}}},
		{1, map[uint32][3]uint32{1: {1, 0, 0}}},
	} {
		got, n := make(map[uint32][3]uint32), uint32(0)
		err := EachLoad(m, c.last, func(id uint32, l bpf.LBBackendLoad) {
			if n++; l.Active+l.Inactive > 0 {
				got[id] = [3]uint32{l.Active, l.Inactive, l.Overloaded}
			}
		})
		if d := cmp.Diff(c.want, got); d != "" || err != nil || n != c.last+1 {
			t.Errorf("to %d: %d ids, error %v, (-want +got):\n%s", c.last, n, err, d)
		}
	}
}

func TestDropsAreSumsOverTheCPUs(t *testing.T) {
	m := maptest.New(t, "drops", 6)
	values := make([]uint64, ebpf.MustPossibleCPU())
	for cpu := range values {
		values[cpu] = 1 << cpu
	}
	put(t, m, uint32(5), values)
	got := make(map[uint32]uint64)
	err := EachDrop(m, func(reason uint32, packets uint64) { got[reason] = packets })
	want := map[uint32]uint64{0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 1<<len(values) - 1}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("error %v, (-want +got):\n%s", err, d)
	}
}
