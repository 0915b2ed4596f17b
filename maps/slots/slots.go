// SPDX-License-Identifier: Apache-2.0

// Package slots handles the array that holds the runs. A run is a header of two
// words, and then its slots: backend ids, two a word, the first in the low half,
// or for the rule LEAST a word for each, the id and above it the weight. A run
// of the rule CURSOR has its Position in the header. Tables of mh, to which runs
// lead, hold indices of 16 bits, four a word.
package slots

import (
	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/mmap"
)

const header = uint32(bpf.LBLimitsHEADER_WORDS)

// Words returns the length in words of a run of count backend ids.
func Words(count int) uint32 { return header + uint32(count+1)/2 }

// WeightedWords returns that of a run of count ids with weights.
func WeightedWords(count int) uint32 { return header + uint32(count) }

// TableWords returns that of a table of count indices.
func TableWords(count int) uint32 { return uint32(count+3) / 4 }

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

// CopyFrom makes the table, which is new, say what a smaller one says. Its cursors move on:
// CopyPosition.
func (t *Table) CopyFrom(from *Table) { t.area.CopyFrom(from.area) }

// CopyPosition has a run of the rule CURSOR stand where it stands in another table.
func (t *Table) CopyPosition(from *Table, base uint32) {
	for at := base; at < base+header; at++ {
		t.area.Store64(at, 0, from.area.Load64(at, 0))
	}
}

// Write writes the slots of a run at base: id(i) for each of count slots.
func (t *Table) Write(base uint32, count int, id func(i int) uint32) {
	for i := 0; i < count; i += 2 {
		word := uint64(id(i))
		if i+1 < count {
			word |= uint64(id(i+1)) << 32
		}
		t.area.Store64(base+header+uint32(i/2), 0, word)
	}
}

// WriteWeighted writes the slots of a run of the rule LEAST at base.
func (t *Table) WriteWeighted(base uint32, count int, slot func(i int) (id uint32, weight uint16)) {
	for i := range count {
		id, weight := slot(i)
		t.area.Store64(base+header+uint32(i), 0, uint64(id)|uint64(weight)<<32)
	}
}

// WriteTable writes a table of mh at base.
func (t *Table) WriteTable(base uint32, indices []uint16) {
	for i := 0; i < len(indices); i += 4 {
		var word uint64
		for j, index := range indices[i:min(i+4, len(indices))] {
			word |= uint64(index) << (16 * j)
		}
		t.area.Store64(base+uint32(i/4), 0, word)
	}
}

// SetTable makes the run at base lead to the table at table.
func (t *Table) SetTable(base, table uint32) { t.area.Store64(base, 0, uint64(table)) }

// Position returns where the run at base stands. A pick between the reads of its
// two words shows as one that failed nowhere.
func (t *Table) Position(base uint32) sched.Position {
	return sched.Position{Next: t.area.Load64(base, 0), Failed: uint32(t.area.Load64(base+1, 0) >> 32)}
}

// SetPosition stores where the run stands, and where its last pass begins.
func (t *Table) SetPosition(base uint32, p sched.Position, lastPass int) {
	t.area.Store64(base, 0, p.Next)
	t.area.Store64(base+1, 0, uint64(uint32(lastPass))|uint64(p.Failed)<<32)
}

// SetNext stores the number of the next pick alone.
func (t *Table) SetNext(base uint32, n uint64) { t.area.Store64(base, 0, n) }

// Has reports whether a run's header at base lies in the map: what another
// process left may lie.
func (t *Table) Has(base uint32) bool {
	return base != 0 && uint64(base)+uint64(header) <= uint64(t.Len())
}
