// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package slots

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestRunsLieInTheMapAsProgramsReadThem(t *testing.T) {
	m := maptest.New(t, "slots", 20)
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	id := func(i int) uint32 { return uint32(0xa0 + i) }
	table.SetPosition(1, sched.Position{Next: 42, Failed: 41}, 2)
	table.Write(1, 3, id)
	table.SetPosition(5, sched.Position{Next: 1 << 40}, 0)
	table.Write(5, 4, id)
	table.WriteWeighted(9, 2, func(i int) (uint32, uint16) { return id(i), uint16(65535 - i) })
	table.SetTable(13, 17)
	table.Write(13, 1, id)
	table.WriteTable(17, []uint16{1, 2, 3, 65535, 4})
	want := []uint64{
		0, 42, 41<<32 | 2, 0xa1<<32 | 0xa0, 0xa2, 1 << 40, 0, 0xa1<<32 | 0xa0, 0xa3<<32 | 0xa2,
		0, 0, 65535<<32 | 0xa0, 65534<<32 | 0xa1, 17, 0, 0xa0, 0, 65535<<48 | 3<<32 | 2<<16 | 1, 4, 0,
	}
	got := make([]uint64, 20)
	for i := range got {
		if err := m.Lookup(uint32(i), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("words (-want +got):\n%s", d)
	}
	if err := m.Put(uint32(1), uint64(45)); err != nil {
		t.Fatal(err)
	}
	if got := table.Position(1); got != (sched.Position{Next: 45, Failed: 41}) {
		t.Errorf("position %+v", got)
	}
	table.SetNext(1, 46)
	if got := table.Position(1); got != (sched.Position{Next: 46, Failed: 41}) {
		t.Errorf("position %+v", got)
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
	for base, want := range map[uint32]bool{0: false, 1: true, 14: true, 15: false, 16: false, 1<<32 - 1: false} {
		if got := table.Has(base); got != want {
			t.Errorf("a run at %d: %v", base, got)
		}
	}
}

func TestWords(t *testing.T) {
	for count, want := range map[int][3]uint32{
		0: {2, 2, 0}, 1: {3, 3, 1}, 2: {3, 4, 1}, 3: {4, 5, 1}, 4: {4, 6, 1}, 4093: {2049, 4095, 1024},
	} {
		if got := [3]uint32{Words(count), WeightedWords(count), TableWords(count)}; got != want {
			t.Errorf("%d slots: %d words, want %d", count, got, want)
		}
	}
}
