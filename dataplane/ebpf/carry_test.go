// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestResume(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, now []uint32
		cursor   uint64
		start    uint64
		next     uint32
	}{
		{"the same run", []uint32{1, 2, 3}, []uint32{1, 2, 3}, 1, 0, 2},
		{"the same run, many cycles on", []uint32{1, 2, 3}, []uint32{1, 2, 3}, 3*1e12 + 2, 0, 3},
		{"the same run, just around", []uint32{1, 2, 3}, []uint32{1, 2, 3}, 3, 0, 1},
		{"the same run, to start in it", []uint32{1, 2, 3}, []uint32{1, 2, 3}, 7, 2, 2},
		{"the same run, of equal halves", []uint32{1, 2, 1, 2}, []uint32{1, 2, 1, 2}, 6, 0, 1},
		{"the cycle begins elsewhere", []uint32{3, 1, 2}, []uint32{1, 2, 3}, 1, 0, 1},
		{"the cycle begins elsewhere, wrr", []uint32{1, 1, 2, 1, 2}, []uint32{2, 1, 1, 2, 1}, 12, 3, 2},
		{"one that was not picked last left", []uint32{1, 2, 3}, []uint32{2, 3}, 2, 0, 3},
		{"one came", []uint32{1, 2, 3}, []uint32{4, 1, 2, 3}, 3, 0, 4},
		{"one came, in mid-cycle", []uint32{1, 2, 3}, []uint32{4, 1, 2, 3}, 5, 0, 3},
		{"none was picked of a run that changed", []uint32{1, 2, 3}, []uint32{1, 3}, 0, 0, 1},
		{"the one picked last left", []uint32{1, 2, 3}, []uint32{1, 3}, 2, 1, 3},
		{"another order", []uint32{1, 2, 3}, []uint32{3, 2, 1}, 1, 0, 3},
		{"nobody stayed", []uint32{1, 2}, []uint32{3, 4, 5}, 1, 2, 5},
	} {
		got := resume(c.old, c.cursor, c.now, c.start)
		if next := c.now[got%uint64(len(c.now))]; next != c.next || got < c.start {
			t.Errorf("%s: cursor %d, %d is next; want %d, cursor at least %d", c.name, got, next, c.next, c.start)
		}
	}
}

// A run too long to look for a rotation in goes on behind the last pick.
func TestResumeOfALongRun(t *testing.T) {
	old := make([]uint32, 2*maxRotation)
	for i := range old {
		old[i] = uint32(i + 1)
	}
	now := slices.Concat(old[100:], old[:100])
	if got := resume(old, 7, now, 0); now[got] != 8 {
		t.Errorf("%d is next, want 8", now[got])
	}
}

func TestResumeOfARotationIsTheSameSequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := rapid.SliceOfN(rapid.Uint32Range(1, 3), 1, 12).Draw(t, "old")
		n := uint64(len(old))
		by := rapid.Uint64Range(0, n-1).Draw(t, "by")
		now := slices.Concat(old[by:], old[:by])
		cursor := rapid.Uint64Range(0, 1<<48).Draw(t, "cursor")
		start := rapid.Uint64Range(0, n).Draw(t, "start")
		got := resume(old, cursor, now, start)
		if got < start || got >= start+n {
			t.Fatalf("cursor %d, want %d to %d", got, start, start+n-1)
		}
		for i := range n {
			if a, b := old[(cursor+i)%n], now[(got+i)%n]; a != b {
				t.Fatalf("cursor %d: pick %d goes to %d, want %d", got, i, b, a)
			}
		}
	})
}
