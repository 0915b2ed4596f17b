// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package batch

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/maps/maptest"
)

// fill enters key -> key+1 for n keys.
func fill(t *testing.T, m *ebpf.Map, n int) map[uint64]uint32 {
	t.Helper()
	want := make(map[uint64]uint32)
	for key := range uint64(n) {
		want[key] = uint32(key + 1)
		if err := m.Put(key, uint32(key+1)); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

func each(t *testing.T, m *ebpf.Map) map[uint64]uint32 {
	t.Helper()
	got := make(map[uint64]uint32)
	err := Each(m, func(k uint64, v *uint32) error {
		if _, ok := got[k]; ok {
			t.Errorf("key %d comes twice", k)
		}
		got[k] = *v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The smaller the map, the more likely a bucket of its hash holds more than the
// rest of a reading has room for; a map of one element has one bucket.
func TestEachSeesEveryElementOnce(t *testing.T) {
	for _, c := range []struct{ room, used int }{{1, 0}, {1, 1}, {2, 2}, {3, 3}, {64, 64}, {1000, 1000}, {20000, 0}, {20000, 1}, {20000, 20000}} {
		m := maptest.Hash(t, uint32(c.room))
		if d := cmp.Diff(fill(t, m, c.used), each(t, m)); d != "" {
			t.Errorf("%d of %d elements (-want +got):\n%s", c.used, c.room, d)
		}
	}
}

// A hash without preallocation may be filled beyond the buckets' share: all
// elements in few buckets, more in one than a reading begins with.
func TestEachMakesRoomForAFullBucket(t *testing.T) {
	m := maptest.Hash(t, 4)
	want := fill(t, m, 4)
	keys, values := make([]uint64, 1), make([]uint32, 1)
	var tight bool
	for range 100 { // a hash has a seed of its own: until two elements share a bucket
		var cursor ebpf.MapBatchCursor
		for err := error(nil); err == nil; {
			_, err = m.BatchLookup(&cursor, keys, values, nil)
			tight = tight || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist)
		}
		if tight {
			break
		}
		m = maptest.Hash(t, 4)
		want = fill(t, m, 4)
	}
	if !tight {
		t.Fatal("no two elements share a bucket")
	}
	got := make(map[uint64]uint32)
	if err := eachFrom(1, m, func(k uint64, v *uint32) error { got[k] += *v; return nil }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestEachSeesArrays(t *testing.T) {
	m := maptest.New(t, "slots", 5000)
	if err := m.Put(uint32(4999), uint64(7)); err != nil {
		t.Fatal(err)
	}
	next := uint32(0)
	err := Each(m, func(k uint32, v *uint64) error {
		if want := uint64(k / 4999 * 7); k != next || *v != want {
			t.Errorf("element %d: %d, want element %d: %d", k, *v, next, want)
		}
		next++
		return nil
	})
	if err != nil || next != 5000 {
		t.Errorf("%d elements, error %v, want 5000", next, err)
	}
}

func TestEachStopsAtAnError(t *testing.T) {
	m := maptest.Hash(t, 100)
	fill(t, m, 100)
	stop, n := errors.New("stop"), 0
	err := Each(m, func(uint64, *uint32) error {
		if n++; n == 7 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 7 {
		t.Errorf("%d elements, error %v, want 7 and that of the caller", n, err)
	}
}

func TestEachPerCPUSeesEveryElementOnAllCPUs(t *testing.T) {
	cpus := ebpf.MustPossibleCPU()
	for _, n := range []uint32{1, 2, 511, 512, 513, 1024, 1500} {
		m := maptest.New(t, "drops", n)
		for key := range n {
			values := make([]uint64, cpus)
			for cpu := range values {
				values[cpu] = uint64(key)<<8 | uint64(cpu)
			}
			if err := m.Put(key, values); err != nil {
				t.Fatal(err)
			}
		}
		next := uint32(0)
		err := EachPerCPU(m, func(key uint32, values []uint64) {
			if key != next || len(values) != cpus {
				t.Fatalf("of %d: element %d with %d values, want element %d with %d", n, key, len(values), next, cpus)
			}
			for cpu, v := range values {
				if want := uint64(key)<<8 | uint64(cpu); v != want {
					t.Errorf("of %d: element %d on CPU %d: %d, want %d", n, key, cpu, v, want)
				}
			}
			next++
		})
		if err != nil || next != n {
			t.Errorf("of %d: %d elements, error %v", n, next, err)
		}
	}
}
