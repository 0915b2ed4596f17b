// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// rr serves the usable backends in list order, one after another.
var rr = Scheduler{
	Name:    rrName,
	Doc:     "round robin: one after another, weights other than 0 ignored",
	compile: compileRR,
}

// rrState is the pointer of the kernel's ip_vs_rr: the backend picked last, as
// it was when the run was compiled. The zero address is the list's head.
type rrState struct{ last netip.AddrPort }

func compileRR(backends []lb.Backend, prev *Run, picks uint64) (*Run, error) {
	last := lastPicked(prev, picks)
	if prev != nil {
		for _, o := range ops(prev.Backends, backends) {
			// the pointer of a deleted backend falls back to its predecessor
			if o.del >= 0 && o.before[o.del].Addr == last {
				last = netip.AddrPort{}
				if o.del > 0 {
					last = o.before[o.del-1].Addr
				}
			}
		}
	}
	r := &Run{Rule: Cursor, state: rrState{last}}
	at := indexOf(backends, last) // head, if it is the zero address
	for i, b := range backends {
		if b.Weight == 0 {
			continue
		}
		if i <= at {
			r.Start++
		}
		r.Slots = append(r.Slots, i)
	}
	return r, nil
}

// lastPicked is the pointer after picks; zero if rr was not the scheduler, as
// a scheduler bound anew starts at the head.
func lastPicked(prev *Run, picks uint64) netip.AddrPort {
	if prev == nil || prev.Scheduler != rrName {
		return netip.AddrPort{}
	}
	if picks > 0 {
		if i, ok := prev.Pick(picks - 1); ok {
			return prev.Backends[i].Addr
		}
	}
	s, _ := prev.state.(rrState)
	return s.last
}

// rrName breaks the initialisation cycle between rr and its compile function.
const rrName = "rr"
