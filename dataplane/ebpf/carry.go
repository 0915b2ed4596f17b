// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/slots"
)

// carried is a cursor that goes on in another generation.
type carried struct {
	rec  *record
	pool int // of bothPools
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
func (s *state) carry(r *reader, prev *formerTables) (follow func(), err error) {
	c, err := r.contents()
	if err != nil {
		return nil, fmt.Errorf("read the former generation: %w", err)
	}
	list := s.carryIDs(c, prev)
	snap, err := c.snapshot()
	if err != nil {
		return nil, fmt.Errorf("read the former generation: %w", err)
	}
	cursors := s.carryRuns(c, snap, prev.slots)
	rep := s.apply(snap)
	for id, err := range rep.Failed {
		s.log.Warn("service not carried over", "service", id.String(), "error", err)
	}
	for _, b := range list {
		if b.draining {
			s.drain(b)
		}
	}
	s.inheritBits(prev)
	follow = func() {
		for _, c := range cursors {
			p := &c.rec.pools[c.pool]
			if picks := prev.slots.Position(c.base).Next - c.cursor; p.at.words > 0 && p.run.Rule == sched.Cursor && picks > 0 {
				base := p.at.pool.Base
				s.t.slots.SetNext(base, s.t.slots.Position(base).Next+picks)
			}
		}
		s.announce(prev.bits())
	}
	return follow, nil
}

// carryIDs enters every backend with its id, and returns them. They are said to
// drain, until their services take them up: then drain is for those that are left.
func (s *state) carryIDs(c *contents, prev *formerTables) []*backend {
	list := make([]*backend, 0, len(c.backends))
	for _, b := range c.backends {
		rec := s.carryRecord(c.services[b.Service])
		if rec == nil || s.withHash(b.Hash) != nil || !s.backendIDs.claim(b.id) {
			continue
		}
		have := &backend{id: b.id, hash: b.Hash, owner: rec}
		have.in = &lb.Backend{Addr: b.Addr, Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Outside: b.Outside}
		have.lastWeight, have.order, have.draining = b.LastWeight, b.Order, true
		s.adopt(have)
		s.t.backends.Write(b.id, b.Record) // found by its hash; what else it says is written anew
		list = append(list, have)
	}
	for _, b := range list {
		if err := s.needPort(b.in.Addr.Port()); err != nil {
			s.log.Warn("answers of a backend are not known", "service", b.owner.id.String(), "backend", b.in.Addr.String(), "error", err)
		}
		s.carryBits(b, prev)
	}
	return list
}

// carryRecord returns the record of a service, which it makes if there is none;
// nil if it cannot.
func (s *state) carryRecord(row *stored) *record {
	if rec := s.records[row.hash]; rec != nil {
		return rec
	}
	index, ok := s.serviceIDs.take()
	if !ok {
		s.log.Warn("service not carried over", "service", row.ID.String(), "error", &FullError{"services", s.t.services.Len()})
		return nil
	}
	if err := s.t.info.Put(row.Service); err != nil {
		s.serviceIDs.release(index)
		s.log.Warn("service not carried over", "service", row.ID.String(), "error", err)
		return nil
	}
	rec := s.newRecord(row.ID, index)
	rec.settings = row.settings
	s.enter(rec)
	return rec
}

// carryRuns makes the runs that are to come go on where those of the former
// generation stood, and remember what they did. It returns the cursors that move
// on meanwhile.
func (s *state) carryRuns(c *contents, snap *lb.Snapshot, prev *slots.Table) (out []carried) {
	for _, row := range c.services {
		svc, rec := snap.Service(row.ID), s.records[row.hash]
		if svc == nil || rec == nil {
			continue
		}
		for i, from := range row.pools {
			if from.Rule == 0 {
				continue
			}
			to := s.restore(svc, svc.Pool(bothPools[i]), rec)
			if from.Rule == sched.Cursor && to.run.Rule == sched.Cursor && prev.Has(from.Base) {
				to.stood = prev.Position(from.Base)
				out = append(out, carried{rec, i, from.Base, to.stood.Next})
			}
			rec.pools[i] = to
		}
	}
	return out
}

// restore makes a pool that stands for one of a former generation.
func (s *state) restore(svc *lb.Service, backends []lb.Backend, rec *record) pool {
	last := make([]uint16, len(backends))
	for i, b := range backends {
		if have := s.withHash(lb.BackendHash(rec.hash, b.Addr)); have != nil {
			last[i] = have.lastWeight
		}
	}
	run := sched.Restore(svc, backends, last)
	return pool{run: run, stood: sched.Position{Next: run.Start}}
}

// carryBits holds the bits that are set for a backend: a service that is gone no
// longer says which it needed.
func (s *state) carryBits(b *backend, prev *formerTables) {
	for _, p := range setOrder {
		if prev.backends.Has(bits.Backend(b.in.Addr, p)) {
			s.needBit(b, p)
		}
		if prev.masq.Has(bits.Backend(b.in.Addr, p)) {
			s.needMasqBit(b, p)
		}
	}
}
