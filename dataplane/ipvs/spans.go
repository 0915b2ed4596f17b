// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// span is addresses from first up to but without next; to the end if next is zero.
type span struct{ first, next netip.Addr }

// spans makes networks of one family into spans that neither overlap nor touch:
// an interval set takes no others.
func spans(networks []netip.Prefix, f lb.Family) (out []span) {
	list := slices.Clone(networks)
	slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Masked().Addr().Compare(b.Masked().Addr()) })
	for _, p := range list {
		if lb.FamilyOf(p.Addr()) != f {
			continue
		}
		p = p.Masked()
		s := span{p.Addr(), lastOf(p).Next()}
		if n := len(out); n > 0 && (!out[n-1].next.IsValid() || s.first.Compare(out[n-1].next) <= 0) {
			if last := &out[n-1]; last.next.IsValid() && (!s.next.IsValid() || last.next.Less(s.next)) {
				last.next = s.next
			}
			continue
		}
		out = append(out, s)
	}
	return out
}
