// SPDX-License-Identifier: Apache-2.0

package sched

import "net/netip"

// rr serves the usable backends in list order, one after another.
var rr = Scheduler{
	Name:    "rr",
	Doc:     "round robin: one after another, weights other than 0 ignored",
	Rule:    Cursor,
	compile: compileRR,
}

// rrState is the pointer of the kernel's ip_vs_rr: the backend picked last, as
// it was when the run was compiled. The zero address is the list's head.
type rrState struct{ last netip.AddrPort }

func compileRR(r, prev *Run, at Position) {
	last := rrLast(r, prev, at)
	r.state = rrState{last}
	r.Slots = usable(r.Backends)
	pointer := indexOf(r.Backends, last) // head, if it is the zero address
	for _, i := range r.Slots {
		if int(i) <= pointer {
			r.Start++
		}
	}
}

// rrLast is the pointer from which r starts. That of a deleted backend falls
// back to its predecessor; a scheduler bound anew starts at the head.
func rrLast(r, prev *Run, at Position) netip.AddrPort {
	if prev == nil || prev.Scheduler != r.Scheduler {
		return netip.AddrPort{}
	}
	s, _ := prev.state.(rrState)
	pointer := indexOf(prev.Backends, s.last)
	if slot, ok := prev.picked(at); ok {
		pointer = int(prev.Slots[slot])
	}
	if pointer == head {
		return netip.AddrPort{}
	}
	if last := prev.Backends[pointer].Addr; indexOf(r.Backends, last) >= 0 {
		return last
	}
	still := index(r.Backends)
	for ; pointer > head; pointer-- {
		last := prev.Backends[pointer].Addr
		if _, ok := still[last]; ok {
			return last
		}
	}
	return netip.AddrPort{}
}

// picked is the slot that a Cursor run picked last, when it stands at p; false
// if it picked none yet.
func (r *Run) picked(p Position) (slot int, ok bool) {
	n := uint64(len(r.Slots))
	if n == 0 || p.Next == r.Start {
		return 0, false
	}
	return int((p.Next%n + n - 1) % n), true
}
