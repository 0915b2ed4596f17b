// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package slots

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestRunsLieInTheMapAsProgramsReadThem(t *testing.T) {
	m := maptest.New(t, "slots", 16)
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	id := func(i int) uint32 { return uint32(0xa0 + i) }
	table.Write(1, 42, 3, id)
	table.Write(4, 1<<40, 4, id)
	table.Write(7, 0, 1, id)
	table.Write(9, 7, 0, id)
	want := []uint64{0, 42, 0xa1<<32 | 0xa0, 0xa2, 1 << 40, 0xa1<<32 | 0xa0, 0xa3<<32 | 0xa2, 0, 0xa0, 7, 0, 0, 0, 0, 0, 0}
	got := make([]uint64, 16)
	for i := range got {
		if err := m.Lookup(uint32(i), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("words (-want +got):\n%s", d)
	}
	for i := range uint32(3) {
		if got := table.ID(1, i); got != 0xa0+i {
			t.Errorf("slot %d: %#x", i, got)
		}
	}
	if err := m.Put(uint32(1), uint64(45)); err != nil {
		t.Fatal(err)
	}
	if got := table.Cursor(1); got != 45 {
		t.Errorf("cursor %d, want 45", got)
	}
}

// What another process left says where a run is: it may lie.
func TestRunsOutsideOfTheMapAreNotRead(t *testing.T) {
	m := maptest.New(t, "slots", 16)
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	table.Write(12, 0, 6, func(i int) uint32 { return uint32(i + 1) })
	got, err := table.ReadIDs(12, 6)
	if d := cmp.Diff([]uint32{1, 2, 3, 4, 5, 6}, got); d != "" || err != nil {
		t.Errorf("error %v, (-want +got):\n%s", err, d)
	}
	for _, c := range [][2]uint32{{0, 1}, {12, 7}, {13, 6}, {16, 0}, {1<<32 - 1, 1}, {1, 1<<24 - 1}} {
		if got, err := table.ReadIDs(c[0], c[1]); err == nil {
			t.Errorf("run of %d at %d: %v", c[1], c[0], got)
		}
	}
}

func TestWords(t *testing.T) {
	for count, want := range map[int]uint32{0: 1, 1: 2, 2: 2, 3: 3, 4: 3, 1<<24 - 1: 1<<23 + 1} {
		if got := Words(count); got != want {
			t.Errorf("%d slots: %d words, want %d", count, got, want)
		}
	}
}
