// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// slot is one of a run's: a backend.
type slot struct {
	id     uint32
	weight uint16 // of LEAST
	closed bool   // of the others: takes nothing new
}

// pool is what a pool word names: a run.
type pool struct {
	rule    bpf.LBRule
	flags   bpf.LBRuleFlags
	base    uint32
	slots   []slot
	table   []uint16 // of mh: places in slots
	tableAt uint32

	cursor       uint64
	last, failed uint32
}

// count is how many places there are to pick from.
func (r *pool) count() int {
	if r.table != nil {
		return len(r.table)
	}
	return len(r.slots)
}

// at is the slot in a place.
func (r *pool) at(i uint32) slot {
	if r.table != nil {
		i = uint32(r.table[i])
	}
	return r.slots[i]
}

// word is what leads to it.
func (r *pool) word() uint64 {
	return uint64(r.base) | uint64(r.count())<<32 | uint64(r.rule)<<56 | uint64(r.flags)<<60
}

// header is what stands before the slots.
func (r *pool) header() [bpf.LBLimitsHEADER_WORDS]uint64 {
	switch {
	case r.rule == ruleCursor:
		return [...]uint64{r.cursor, uint64(r.last) | uint64(r.failed)<<32}
	case r.table != nil:
		return [...]uint64{uint64(r.tableAt), 0}
	}
	return [...]uint64{0, 0}
}

func (r *pool) words() []uint64 {
	h := r.header()
	out := h[:]
	if r.rule == ruleLeast {
		for _, s := range r.slots {
			out = append(out, uint64(s.id)|uint64(s.weight)<<32)
		}
		return out
	}
	for pair := range slices.Chunk(r.slots, 2) {
		var word uint64
		for i, s := range pair {
			id := s.id
			if s.closed {
				id |= uint32(bpf.LBLimitsSLOT_CLOSED)
			}
			word |= uint64(id) << (32 * i)
		}
		out = append(out, word)
	}
	return out
}

// lastWord bounds the map of runs.
const lastWord = 1 << 17

// errFull ends a world: its map of runs is used up.
var errFull = errors.New("no room for another run")

// writeWords enters words where there are none, and says where.
func (w *world) writeWords(k *kernel, words []uint64) (uint32, error) {
	at := w.slots
	if int(at)+len(words) > lastWord {
		return 0, errFull
	}
	w.slots += uint32(len(words))
	keys := make([]uint32, len(words))
	for i := range keys {
		keys[i] = at + uint32(i)
	}
	_, err := k.Slots.BatchUpdate(keys, words, &ebpf.BatchOptions{})
	return at, err
}

// writeTable enters a table of mh, unless it is there.
func (w *world) writeTable(k *kernel, table []uint16) (uint32, error) {
	if t, ok := w.tables[&table[0]]; ok {
		return t.at, nil
	}
	var words []uint64
	for four := range slices.Chunk(table, 4) {
		var word uint64
		for i, place := range four {
			word |= uint64(place) << (16 * i)
		}
		words = append(words, word)
	}
	at, err := w.writeWords(k, words)
	w.tables[&table[0]] = sharedTable{table, at}
	return at, err
}

// sharedTable is where a table is; it keeps it, so that no other has its address.
type sharedTable struct {
	table []uint16
	at    uint32
}

// compile publishes runs of what a service has now, in both pools.
func (w *world) compile(r *rand.Rand, k *kernel, s *service) error {
	s.late = false
	rule := bpf.LBRule(1 + r.IntN(3)) // of runs that are none of a scheduler's
	for i, which := range []bpf.LBPools{poolCluster, poolLocal} {
		if which == poolLocal && !s.local {
			s.pools[i], s.compiled[i] = pool{}, nil
			continue
		}
		next, err := w.schedule(s, i)
		if s.scheduler == "" {
			next = w.oddRun(r, w.members(s, which), rule)
		}
		if err != nil {
			return err
		}
		if next.count() == 0 && which == poolLocal && r.IntN(2) == 0 {
			next.flags = emptyDrop
		}
		if err := w.write(k, &next); err != nil {
			return err
		}
		s.pools[i] = next
	}
	return w.putService(k, s)
}

// write enters a run, if there is anything of it, and its table.
func (w *world) write(k *kernel, next *pool) (err error) {
	if next.table != nil {
		if next.tableAt, err = w.writeTable(k, next.table); err != nil {
			return err
		}
	}
	if next.count() > 0 {
		next.base, err = w.writeWords(k, next.words())
	}
	return err
}

// members are the ids of a service's backends in a pool.
func (w *world) members(s *service, which bpf.LBPools) (out []uint32) {
	for _, id := range s.list {
		if b := w.backends[id]; b.Hash != 0 && b.Outside&uint8(which) == 0 {
			out = append(out, id)
		}
	}
	return out
}

// schedule makes the run that the agent would, of one of the pools.
func (w *world) schedule(s *service, i int) (pool, error) {
	if s.scheduler == "" {
		s.compiled[i] = nil
		return pool{}, nil
	}
	svc := lb.Service{Scheduler: s.scheduler, SchedulerFlags: s.schedulerFlags}
	var ids []uint32
	for _, id := range w.members(s, []bpf.LBPools{poolCluster, poolLocal}[i]) {
		b := w.backends[id]
		if b.State == uint8(bpf.LBBackendStateBACKEND_DRAINING) {
			continue
		}
		ids = append(ids, id)
		svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom16(b.Addr).Unmap(), b.Port), Weight: b.Weight,
			Upper: b.Upper, Lower: b.Lower, Unhealthy: b.State == uint8(bpf.LBBackendStateBACKEND_UNHEALTHY)})
	}
	c, err := sched.Compile(&svc, svc.Backends, s.compiled[i], sched.Position{Next: s.pools[i].cursor, Failed: s.pools[i].failed})
	if err != nil {
		return pool{}, err
	}
	s.compiled[i] = c
	return runOf(c, ids), nil
}

// runOf is how the agent lays out what a scheduler made.
func runOf(c *sched.Run, ids []uint32) pool {
	r := pool{rule: bpf.LBRule(c.Rule), flags: bpf.LBRuleFlags(c.Flags), cursor: c.Start, last: uint32(c.LastPass)}
	if len(c.Slots) == 0 {
		r.flags = 0 // one of them says what becomes of packets to an empty pool
	}
	places := c.Slots
	if r.rule == ruleHash && r.flags&hashSIP != 0 {
		if len(c.Slots) == 0 {
			return r
		}
		r.table, places = c.Slots, nil
		for i := range c.Backends {
			places = append(places, uint16(i))
		}
	}
	for _, i := range places {
		b := &c.Backends[i]
		r.slots = append(r.slots, slot{ids[i], b.Weight, !b.Usable()})
	}
	return r
}
