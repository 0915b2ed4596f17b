// SPDX-License-Identifier: Apache-2.0

package fake

import "github.com/waggle-lb/waggle/lb"

// fate is what becomes of a packet whose flow is there.
type fate int

const (
	goesOn fate = iota
	ends        // the flow ends, and the packet may begin another
	drops
)

// fateOf says what becomes of a client's packet of a flow.
func (k *Kernel) fateOf(p Packet, f *flow) fate {
	b, tcp := f.backend, p.Protocol == lb.TCP
	if b == nil {
		if tcp && p.isSYN() && f.isFinished() {
			return ends
		}
		return goesOn
	}
	svc := b.owner.svc
	switch {
	case tcp && p.isSYN() && wantsPick(f, svc):
		return ends
	case b.serves():
		return goesOn
	case svc.Lost == lb.LostDrop:
		return drops
	case tcp && svc.Lost == lb.LostReset:
		return ends
	}
	if _, s := k.lookup(p.Dst, p.Protocol); !tcp && s != nil {
		return ends
	}
	return goesOn
}

// isFinished reports whether the connection was closed.
func (f *flow) isFinished() bool { return f.state == timeWait || f.state == closed }

// wantsPick says whether a SYN of a flow begins another.
func wantsPick(f *flow, svc *lb.Service) bool {
	b := f.backend
	switch {
	case svc.Reuse == lb.ReuseAny:
		return f.isFinished() || b.removed || !b.in.Usable() || b.in.Outside == lb.Cluster|lb.Local
	case svc.Lost == lb.LostReset && b.in.Weight == 0:
		return true
	}
	return svc.Reuse == lb.ReuseFinished && f.isFinished() && !f.affinity
}
