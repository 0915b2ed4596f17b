// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// Order returns next with its backends in the order that the kernel's list
// would have if prev were brought to next by deletions, edits in place and
// additions at the head: so a backend's turn does not depend on where in the
// file its line stands, and moving lines changes nothing. Services that prev
// does not have keep their order; those that are equal keep prev's pointer.
func Order(prev *lb.Snapshot, next []*lb.Service) []*lb.Service {
	out := make([]*lb.Service, 0, len(next))
	for _, svc := range next {
		old := prev.Service(svc.ID)
		if old != nil {
			svc = reorder(old, svc)
		}
		if old != nil && old.Equal(svc) {
			svc = old
		}
		out = append(out, svc)
	}
	return out
}

func reorder(old, svc *lb.Service) *lb.Service {
	wanted := make(map[netip.AddrPort]lb.Backend, len(svc.Backends))
	for _, b := range svc.Backends {
		wanted[b.Addr] = b
	}
	had := make(map[netip.AddrPort]bool, len(old.Backends))
	for _, b := range old.Backends {
		had[b.Addr] = true
	}
	ordered := make([]lb.Backend, 0, len(svc.Backends))
	for _, b := range svc.Backends { // newest first: the last line is the head
		if !had[b.Addr] {
			ordered = append(ordered, b)
		}
	}
	for _, b := range old.Backends {
		if now, ok := wanted[b.Addr]; ok {
			ordered = append(ordered, now)
		}
	}
	changed := *svc
	changed.Backends = ordered
	return &changed
}
