// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

const wrrName = "wrr"

// wrr walks the list in passes with a falling threshold.
var wrr = Scheduler{
	Name:    wrrName,
	Doc:     "weighted round robin: in each cycle a backend is picked as often as its weight says",
	compile: compileWRR,
}

// wrrState is what the kernel's ip_vs_wrr keeps: the backend picked last (zero:
// the list's head), the current weight, and, derived from the list, the
// weights' greatest common divisor and the highest threshold.
type wrrState struct {
	last       netip.AddrPort
	cw, mw, di int
}

// measure derives di and mw: di = gcd of the positive weights (1 if there is
// none), mw = largest weight - (di - 1).
func (s *wrrState) measure(list []lb.Backend) {
	s.di, s.mw = 0, 0
	for _, b := range list {
		w := int(b.Weight)
		s.di, s.mw = gcd(s.di, w), max(s.mw, w)
	}
	s.di = max(s.di, 1)
	s.mw -= s.di - 1
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// changed is what any addition, deletion or edit does: back to the head, and
// the current weight brought onto the new grid, not back to the top.
func (s *wrrState) changed(list []lb.Backend) {
	s.last = netip.AddrPort{}
	s.measure(list)
	switch {
	case s.cw > s.mw || s.cw == 0:
		s.cw = s.mw
	case s.di > 1:
		s.cw = s.cw/s.di*s.di + 1
	}
}

// pick takes the next backend's index; at is the pointer, as an index.
func (s *wrrState) pick(list []lb.Backend, at int) int {
	for {
		for at++; at < len(list); at++ {
			if int(list[at].Weight) >= s.cw {
				return at
			}
		}
		at = head
		if s.cw -= s.di; s.cw <= 0 {
			s.cw = s.mw
		}
	}
}

// advance takes n picks and returns them; none if nobody has a weight.
func (s *wrrState) advance(list []lb.Backend, n int) []int {
	if s.mw == 0 || n == 0 {
		return nil
	}
	out := make([]int, n)
	at := indexOf(list, s.last)
	for i := range out {
		at = s.pick(list, at)
		out[i] = at
	}
	s.last = list[at].Addr
	return out
}

func compileWRR(backends []lb.Backend, prev *Run, picks uint64) (*Run, error) {
	s := wrrBefore(backends, prev, picks)
	sum := 0
	for _, b := range backends {
		sum += int(b.Weight)
	}
	if sum/s.di > MaxSlots {
		return nil, &WeightError{sum / s.di}
	}
	r := &Run{Rule: Cursor, state: s}
	r.Slots = s.advance(backends, sum/s.di)
	return r, nil
}

// wrrBefore is the state from which the new run starts.
func wrrBefore(backends []lb.Backend, prev *Run, picks uint64) wrrState {
	var s wrrState
	if prev == nil { // built by adding one by one
		for _, o := range ops(nil, backends) {
			s.changed(o.after)
		}
		s.measure(backends)
		return s
	}
	if prev.Scheduler != wrrName { // bound to a service that has backends
		s.measure(backends)
		s.cw = s.mw
		return s
	}
	s = prev.state.(wrrState)
	if n := uint64(len(prev.Slots)); n > 0 && picks > 0 {
		// not modulo n: after a whole cycle the threshold is the last pick's,
		// which goes on as the start did but reacts to changes differently
		s.advance(prev.Backends, int((picks-1)%n)+1)
	}
	for _, o := range ops(prev.Backends, backends) {
		s.changed(o.after)
	}
	return s
}
