// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// wrr walks the list in passes with a falling threshold. Its run is one cycle,
// from the highest threshold to the lowest, so it depends on the list alone.
var wrr = Scheduler{
	Name:    "wrr",
	Doc:     "weighted round robin: in each cycle a backend is picked as often as its weight says",
	Rule:    Cursor,
	compile: compileWRR,
}

// wrrState is what the kernel's ip_vs_wrr keeps, as it was when the run was
// compiled: the backend picked last (zero: the list's head) and the current
// weight; and the cycle, from which later ones are told.
type wrrState struct {
	last netip.AddrPort
	cw   int
	cycle
}

func compileWRR(r, prev *Run, at Position) {
	var s wrrState
	var weights []int
	s.cycle, weights = newCycle(r.Backends)
	r.Flags, r.Slots = CursorPasses, s.slots(weights)
	if n := len(s.levels); n > 0 {
		r.LastPass = len(r.Slots) - s.levels[n-1].size
	}
	s.begin(r, prev, at)
	r.Start = s.position(r)
	r.state = s
}

// begin finds the pointer and current weight from which r starts.
func (s *wrrState) begin(r, prev *Run, at Position) {
	var from []lb.Backend
	if prev != nil {
		if prev.Scheduler != r.Scheduler { // bound to a service that has backends
			s.cw = s.mw
			return
		}
		s.last, s.cw = prev.wrrAt(at)
		from = prev.Backends
	}
	changes := history(from, r.Backends)
	for i, m := range changes {
		s.last = netip.AddrPort{}
		if di := max(m.gcd, 1); i < len(changes)-1 {
			s.regrid(di, m.max-(di-1))
		} else {
			s.regrid(s.di, s.mw)
		}
	}
	if s.cw < 1 || s.cw > s.mw { // only if prev was no run of Compile or Restore
		s.cw = s.mw
	}
}

// regrid is what any addition, deletion or edit does beside going back to the
// head: the current weight is brought onto the new grid, not back to the top.
func (s *wrrState) regrid(di, mw int) {
	switch {
	case s.cw > mw || s.cw == 0:
		s.cw = mw
	case di > 1:
		s.cw = s.cw/di*di + 1
	}
}

// wrrAt is the pointer and the current weight of a run that stands at p.
func (r *Run) wrrAt(p Position) (last netip.AddrPort, cw int) {
	s, _ := r.state.(wrrState)
	slot, ok := r.picked(p)
	switch {
	case !ok:
		return s.last, s.cw
	case p.failed():
		return netip.AddrPort{}, s.mw
	}
	return r.Backends[r.Slots[slot]].Addr, s.threshold(slot)
}

// position is the slot at which a walk from s goes on.
func (s *wrrState) position(r *Run) uint64 {
	if len(r.Slots) == 0 {
		return 0
	}
	first, size := s.pass(s.cw)
	if pointer := indexOf(r.Backends, s.last); pointer != head {
		first += slices.Index(r.Slots[first:first+size], uint16(pointer)) + 1
	}
	return uint64(first % len(r.Slots))
}
