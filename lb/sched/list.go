// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// head is the pointer that stands before the first backend of a list.
const head = -1

// index says where in a list each address is.
func index(list []lb.Backend) map[netip.AddrPort]int {
	out := make(map[netip.AddrPort]int, len(list))
	for i, b := range list {
		out[b.Addr] = i
	}
	return out
}

func indexOf(list []lb.Backend, addr netip.AddrPort) int {
	return slices.IndexFunc(list, func(b lb.Backend) bool { return b.Addr == addr })
}

// allOf are the indices of a list in which all may be picked: most are such.
var allOf = func() (all [MaxBackends]uint16) {
	for i := range all {
		all[i] = uint16(i)
	}
	return all
}()

// usable are the indices of the backends that may be picked, in list order. They are
// not the caller's to change.
func usable(list []lb.Backend) []uint16 {
	n := 0
	for n < len(list) && list[n].Usable() {
		n++
	}
	if n == len(list) {
		return allOf[:n:n]
	}
	out := append(make([]uint16, 0, len(list)), allOf[:n]...)
	for i := n; i < len(list); i++ {
		if list[i].Usable() {
			out = append(out, uint16(i))
		}
	}
	return out
}

// lastWeights are the last weights other than 0 of backends that had what prev
// knows before; nil if they are what the backends say.
func lastWeights(backends []lb.Backend, prev *Run) []uint16 {
	if prev == nil || !slices.ContainsFunc(backends, func(b lb.Backend) bool { return b.Weight == 0 }) {
		return nil
	}
	before := index(prev.Backends)
	out := make([]uint16, len(backends))
	for i, b := range backends {
		out[i] = b.Weight
		if j, ok := before[b.Addr]; ok && b.Weight == 0 {
			out[i] = prev.lastWeight(j)
		}
	}
	return out
}

// measure is what wrr wants to know of a list's weights; the zero value is that
// of a list in which nobody has one.
type measure struct{ gcd, max, sum int }

func measured(b lb.Backend) measure {
	if !b.Usable() {
		return measure{}
	}
	w := int(b.Weight)
	return measure{w, w, w}
}

// and is the measure of two lists together.
func (m measure) and(n measure) measure {
	return measure{gcd(m.gcd, n.gcd), max(m.max, n.max), m.sum + n.sum}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// history takes apart what leads from one list to another into the changes that
// IPVS would be told: deletions in list order, then edits, then additions at the
// head, the newest last. It returns the measure of the list after each.
func history(prev, next []lb.Backend) []measure {
	was, is := index(prev), index(next)
	var kept measure
	var gone, come []measure // one by one
	for _, b := range prev {
		if _, ok := is[b.Addr]; !ok {
			gone = append(gone, measured(b))
		}
	}
	deletions := len(gone)
	for _, b := range next {
		if i, ok := was[b.Addr]; ok && prev[i] == b {
			kept = kept.and(measured(b))
		} else if ok {
			gone, come = append(gone, measured(prev[i])), append(come, measured(b))
		}
	}
	for _, b := range slices.Backward(next) {
		if _, ok := was[b.Addr]; !ok {
			come = append(come, measured(b))
		}
	}
	// gone[i] becomes what is left while i is still there, come[i] what there is with i
	for i := len(gone) - 2; i >= 0; i-- {
		gone[i] = gone[i].and(gone[i+1])
	}
	for i := 1; i < len(come); i++ {
		come[i] = come[i].and(come[i-1])
	}
	out := make([]measure, deletions+len(come))
	for n := range out {
		out[n] = kept
		if n+1 < len(gone) {
			out[n] = out[n].and(gone[n+1])
		}
		if n >= deletions {
			out[n] = out[n].and(come[n-deletions])
		}
	}
	return out
}
