// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"slices"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/slots"
)

// carried is a cursor that goes on in another generation.
type carried struct {
	rec *record
	run *sched.Run
	// base is the run's base in the former generation, cursor what was there
	// when it was carried over.
	base   uint32
	cursor uint64
}

// carry makes this generation, which must be empty, say what a former one
// says: the same ids, runs compiled afresh, cursors where they were. Nothing in
// the former one is trusted unless the hashes of identities agree. What cannot
// be carried is logged and left out; the next snapshot says what is wanted. Call
// the returned function just before publishing; it follows the picks that were
// made in between.
func (s *state) carry(r *reader, prevSlots *cilium.Map) (follow func() error, err error) {
	c, err := r.contents()
	if err != nil {
		return nil, fmt.Errorf("read the former generation: %w", err)
	}
	s.carryIDs(c)
	snap, err := c.snapshot()
	if err != nil {
		return nil, fmt.Errorf("read the former generation: %w", err)
	}
	rep := s.apply(snap)
	for id, err := range rep.Failed {
		s.log.Warn("service not carried over", "service", id.String(), "error", err)
	}
	table, err := slots.Open(prevSlots)
	if err != nil {
		return nil, err
	}
	cursors := s.carryCursors(c, table)
	follow = func() error {
		for _, c := range cursors {
			if picks := table.Cursor(c.base) - c.cursor; c.rec.run == c.run && picks > 0 {
				base := c.rec.pool.Base
				s.t.slots.SetCursor(base, s.t.slots.Cursor(base)+picks)
			}
		}
		return table.Close()
	}
	return follow, nil
}

// carryIDs enters every backend with its id, as draining: those that are still
// wanted are taken up by their services.
func (s *state) carryIDs(c *contents) {
	for _, b := range c.backends {
		row := c.services[b.Service]
		rec := s.records[row.hash]
		if rec == nil {
			index, ok := s.serviceIDs.take()
			if !ok {
				s.log.Warn("service not carried over", "service", row.ID.String(), "error", &FullError{"services", s.t.services.Len()})
				continue
			}
			rec = s.newRecord(row.ID, index)
			s.enter(rec)
		}
		if rec.backends[b.Addr] != nil || !s.backendIDs.claim(b.id) {
			continue
		}
		if err := s.t.backendIDs.Put([]uint64{b.Hash}, []uint32{b.id}); err != nil {
			s.backendIDs.release(b.id)
			s.log.Warn("backend not carried over", "service", row.ID.String(), "backend", b.Addr.String(), "error", err)
			continue
		}
		have := s.adopt(rec, b.Addr, b.id)
		have.weight, have.order = b.Weight, b.Order
		s.carryBits(have)
		s.drain(have)
	}
}

// carryBits holds the bits that are set for a backend: they outlive processes,
// and a service that is gone no longer says which it needed.
func (s *state) carryBits(b *backend) {
	for _, p := range []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP} {
		bit := bits.Backend(b.addr, p)
		if s.backendBits.table.IsSet(bit) {
			s.needBit(b, p)
		}
		if s.masqBits.table.IsSet(bit) {
			s.needMasqBit(b, p)
		}
	}
}

// carryCursors sets the cursors of the services that are live.
func (s *state) carryCursors(c *contents, prev *slots.Table) []carried {
	var out []carried
	for _, row := range c.services {
		rec := s.records[row.hash]
		if !row.live() || row.pool.Count == 0 || rec == nil || rec.pool.Count == 0 || rec.run.Rule != sched.Cursor || row.pool.Rule != sched.Cursor {
			continue
		}
		old, err := prev.ReadIDs(row.pool.Base, row.pool.Count)
		if err != nil {
			s.log.Warn("cursor not carried over", "service", row.ID.String(), "error", err)
			continue
		}
		now := make([]uint32, rec.pool.Count)
		for i := range now {
			now[i] = s.t.slots.ID(rec.pool.Base, uint32(i))
		}
		cursor := prev.Cursor(row.pool.Base)
		s.t.slots.SetCursor(rec.pool.Base, resume(old, cursor, now, rec.run.Start))
		out = append(out, carried{rec, rec.run, row.pool.Base, cursor})
	}
	return out
}

// maxRotation bounds the runs in which a rotation is looked for: the search may
// take the square of it.
const maxRotation = 4096

// resume returns the cursor at which the run now goes on as old would have from
// cursor: at the same place of the same cycle, which may begin elsewhere; else
// behind the backend picked last; else at start. It is never less than start, so
// that the picks from start can be told.
func resume(old []uint32, cursor uint64, now []uint32, start uint64) uint64 {
	n := uint64(len(now))
	at := func(place uint64) uint64 { return start + (place%n+n-start%n)%n }
	if slices.Equal(old, now) {
		return at(cursor)
	}
	if len(old) == len(now) && len(now) <= maxRotation {
		for r := range now {
			if slices.Equal(old[:len(old)-r], now[r:]) && slices.Equal(old[len(old)-r:], now[:r]) {
				return at(cursor%n + uint64(r))
			}
		}
	}
	last := old[(cursor+uint64(len(old))-1)%uint64(len(old))]
	if i := slices.Index(now, last); i >= 0 {
		return at(uint64(i) + 1)
	}
	return start
}
