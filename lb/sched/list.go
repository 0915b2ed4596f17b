// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// head is the pointer that stands before the first backend of a list.
const head = -1

func indexOf(list []lb.Backend, addr netip.AddrPort) int {
	return slices.IndexFunc(list, func(b lb.Backend) bool { return b.Addr == addr })
}

// op is one change of a list, as IPVS would be told it.
type op struct {
	before []lb.Backend // the list that it changes
	after  []lb.Backend
	del    int // index in before of the backend that goes; -1 for an edit or an addition
}

// ops derives what leads from one list to another: deletions in list order,
// then edits in place, then additions at the head, the newest last. The result
// of the last is next itself, so that an order which these would not give (a
// sorted list) is taken as it is.
func ops(prev, next []lb.Backend) []op {
	var out []op
	list := prev
	push := func(after []lb.Backend, del int) {
		out = append(out, op{list, after, del})
		list = after
	}
	for _, b := range prev {
		if indexOf(next, b.Addr) < 0 {
			i := indexOf(list, b.Addr)
			push(slices.Delete(slices.Clone(list), i, i+1), i)
		}
	}
	for _, b := range next {
		if i := indexOf(list, b.Addr); i >= 0 && list[i].Weight != b.Weight {
			after := slices.Clone(list)
			after[i] = b
			push(after, -1)
		}
	}
	for _, b := range slices.Backward(next) {
		if indexOf(list, b.Addr) < 0 {
			push(append([]lb.Backend{b}, list...), -1)
		}
	}
	if len(out) > 0 {
		out[len(out)-1].after = next
	}
	return out
}
