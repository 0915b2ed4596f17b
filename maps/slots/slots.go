// SPDX-License-Identifier: Apache-2.0

// Package slots handles the array that holds the runs. A run is a header word,
// which is the cursor, and then the backend ids of its slots, two a word, the
// first in the low half.
package slots

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/maps/mmap"
)

// Words returns the length in words of a run of count slots.
func Words(count int) uint32 { return 1 + uint32(count+1)/2 }

// Table is the map slots. One goroutine writes; programs advance the cursors.
type Table struct{ area *mmap.Area }

// Open maps the table's memory.
func Open(m *ebpf.Map) (*Table, error) {
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &Table{area}, nil
}

// Close unmaps the memory.
func (t *Table) Close() error { return t.area.Close() }

// Len returns the number of words.
func (t *Table) Len() uint32 { return t.area.Len() }

// Write writes a run at base: the cursor, and id(i) for each of count slots.
func (t *Table) Write(base uint32, cursor uint64, count int, id func(i int) uint32) {
	t.SetCursor(base, cursor)
	for i := 0; i < count; i += 2 {
		word := uint64(id(i))
		if i+1 < count {
			word |= uint64(id(i+1)) << 32
		}
		t.area.Store64(base+1+uint32(i/2), 0, word)
	}
}

// Cursor returns the number of the next pick from the run at base.
func (t *Table) Cursor(base uint32) uint64 { return t.area.Load64(base, 0) }

// SetCursor stores the number of the next pick.
func (t *Table) SetCursor(base uint32, n uint64) { t.area.Store64(base, 0, n) }

// ID returns the backend id in slot i of the run at base.
func (t *Table) ID(base uint32, i uint32) uint32 {
	return uint32(t.area.Load64(base+1+i/2, 0) >> (32 * (i & 1)))
}

// ReadIDs returns the ids of the run at base. It fails if the run does not lie
// in the map.
func (t *Table) ReadIDs(base, count uint32) ([]uint32, error) {
	if end := uint64(base) + uint64(Words(int(count))); base == 0 || end > uint64(t.Len()) {
		return nil, fmt.Errorf("run of %d slots at %d is outside of slots (%d words)", count, base, t.Len())
	}
	ids := make([]uint32, count)
	for i := range ids {
		ids[i] = t.ID(base, uint32(i))
	}
	return ids, nil
}
