// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/slots"
)

// place is where a run lies in the map slots.
type place struct {
	pool  services.Pool
	words uint32 // from pool.Base on; 0: the run has no slots
	table *table // of mh; nil for the others
}

// table is one of mh's, in the map slots. Runs whose pools are equal share it:
// it holds places in the list, not ids.
type table struct {
	indices     []uint16
	base, words uint32
	refs        int
}

// hasTable says whether a run's slots are a table.
func hasTable(run *sched.Run) bool { return run.Rule == sched.Hash && run.Flags&sched.HashSip != 0 }

// runWords is how many words of slots a run has to itself.
func runWords(run *sched.Run) uint32 {
	switch {
	case len(run.Slots) == 0:
		return 0
	case hasTable(run):
		return slots.Words(len(run.Backends))
	case run.Rule == sched.Least:
		return slots.WeightedWords(len(run.Slots))
	}
	return slots.Words(len(run.Slots))
}

// reserve finds room for a run; on an error it has taken none. The table is written at once, as nobody sees
// it before the run.
func (s *state) reserve(run *sched.Run) (place, error) {
	p := place{pool: services.Pool{Count: uint32(len(run.Slots)), Rule: run.Rule, Flags: run.Flags}}
	if p.words = runWords(run); p.words == 0 {
		p.pool.Flags = 0 // EmptyDrop may be among them
		return p, nil
	}
	if hasTable(run) {
		if p.table = s.takeTable(run.Slots); p.table == nil {
			return place{}, &FullError{"slots", s.t.slots.Len()}
		}
	}
	var ok bool
	if p.pool.Base, ok = s.space.alloc(p.words, s.now()); !ok {
		s.dropTable(p.table, false)
		return place{}, &FullError{"slots", s.t.slots.Len()}
	}
	return p, nil
}

// takeTable returns the table with these indices, which package sched makes once
// for equal pools; nil if there is no room for it.
func (s *state) takeTable(indices []uint16) *table {
	t := s.mhTables[&indices[0]]
	if t == nil {
		t = &table{indices: indices, words: slots.TableWords(len(indices))}
		var ok bool
		if t.base, ok = s.space.alloc(t.words, s.now()); !ok {
			return nil
		}
		s.t.slots.WriteTable(t.base, indices)
		s.mhTables[&indices[0]] = t
	}
	t.refs++
	return t
}

// dropTable takes back takeTable. seen says that packets may be in it.
func (s *state) dropTable(t *table, seen bool) {
	if t == nil {
		return
	}
	if t.refs--; t.refs == 0 {
		delete(s.mhTables, &t.indices[0])
		s.giveBack(t.base, t.words, seen)
	}
}

// giveBack frees words of slots: after a rest if packets may be in them.
func (s *state) giveBack(base, words uint32, seen bool) {
	if seen {
		s.space.rest(base, words, s.now())
	} else {
		s.space.release(base, words)
	}
}

// vacate gives a run's place back.
func (s *state) vacate(p place, seen bool) {
	if p.words > 0 {
		s.giveBack(p.pool.Base, p.words, seen)
		s.dropTable(p.table, seen)
	}
}

// occupy writes a run into its place. ids are those of its backends.
func (s *state) occupy(p place, run *sched.Run, ids []uint32) {
	base := p.pool.Base
	if p.words == 0 {
		return
	}
	switch {
	case p.table != nil:
		s.t.slots.SetTable(base, p.table.base)
		s.t.slots.Write(base, len(ids), func(i int) uint32 { return slotOf(ids[i], &run.Backends[i]) })
	case run.Rule == sched.Least:
		s.t.slots.WriteWeighted(base, len(run.Slots), func(i int) (uint32, uint16) {
			at := run.Slots[i]
			return ids[at], run.Backends[at].Weight
		})
	default:
		s.t.slots.SetPosition(base, sched.Position{Next: run.Start}, run.LastPass)
		s.t.slots.Write(base, len(run.Slots), func(i int) uint32 {
			at := run.Slots[i]
			return slotOf(ids[at], &run.Backends[at])
		})
	}
}

// slotOf is what stands in a slot for a backend.
func slotOf(id uint32, b *lb.Backend) uint32 {
	if b.Usable() {
		return id
	}
	return id | uint32(bpf.LBLimitsSLOT_CLOSED)
}
