// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// candidate is an endpoint at the port of a plan.
type candidate struct {
	*endpoint
	at     netip.AddrPort
	weight uint16
}

// draining says that it serves connections although it is about to go.
func (c *candidate) draining() bool { return !c.ready && c.serving && c.terminating }

// backends returns those of a plan, with the pools that they are not in. All that
// serve are backends, in a pool or not: connections to them go on. Both pools are
// always made, whatever policies the frontends have, so that a change of policy
// changes no backend.
func (p *plan) backends(from []*slice, zoneWeights map[string]uint16, zone string) []lb.Backend {
	all := p.candidates(from, zoneWeights)
	serving := func(c *candidate) bool { return c.ready || c.serving }
	prefers := preference(all, zone)
	inCluster := poolOf(all, func(c *candidate) bool { return true }, prefers)
	inLocal := poolOf(all, func(c *candidate) bool { return c.local }, func(c *candidate) bool { return true })
	out := make([]lb.Backend, 0, len(all))
	for i := range all {
		c := &all[i]
		if !serving(c) {
			continue
		}
		b := lb.Backend{Addr: c.at, Weight: c.weight}
		if !inCluster(c) {
			b.Outside |= lb.Cluster
		}
		if !inLocal(c) {
			b.Outside |= lb.Local
		}
		out = append(out, b)
	}
	return out
}

// poolOf returns what is in a pool of those that eligible holds for: the ready ones
// that are preferred, and if none is ready, those that drain.
func poolOf(all []candidate, eligible, prefers func(*candidate) bool) func(*candidate) bool {
	for i := range all {
		if all[i].ready && eligible(&all[i]) {
			return func(c *candidate) bool { return c.ready && eligible(c) && prefers(c) }
		}
	}
	return func(c *candidate) bool { return c.draining() && eligible(c) }
}

// preference returns whom hints prefer on this machine. Hints count if each ready
// endpoint has one of the kind, and one of them is for here; those for nodes come
// before those for zones.
func preference(all []candidate, zone string) func(*candidate) bool {
	forNode := func(c *candidate) bool { return c.forThisNode }
	forZone := func(c *candidate) bool { return zone != "" && slices.Contains(c.forZones, zone) }
	nodeHints, zoneHints, someNode, someZone := true, true, false, false
	for i := range all {
		if c := &all[i]; c.ready {
			nodeHints, someNode = nodeHints && c.nodeHints, someNode || forNode(c)
			zoneHints, someZone = zoneHints && len(c.forZones) > 0, someZone || forZone(c)
		}
	}
	switch {
	case nodeHints && someNode:
		return forNode
	case zoneHints && someZone:
		return forZone
	}
	return func(*candidate) bool { return true }
}

// candidates returns the endpoints of all slices at the plan's port, by address
// and port, each once.
func (p *plan) candidates(from []*slice, zoneWeights map[string]uint16) []candidate {
	n := 0
	for _, s := range from {
		n += len(s.endpoints)
	}
	all := make([]candidate, 0, n)
	for _, s := range from {
		number, ok := s.at(p.port, p.protocol)
		if !ok || s.family != p.model.ID.Family {
			continue
		}
		for i := range s.endpoints {
			e := &s.endpoints[i]
			all = append(all, candidate{e, netip.AddrPortFrom(e.addr, number), weightOf(s, e, zoneWeights)})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.at.Compare(b.at) })
	return once(all)
}

func weightOf(s *slice, e *endpoint, zoneWeights map[string]uint16) uint16 {
	if s.weight != noWeight {
		return uint16(s.weight)
	}
	if w, ok := zoneWeights[e.zone]; ok {
		return w
	}
	return 1
}

// once leaves one of those at the same address and port, which stand in the order
// of their slices' names: one that does not terminate, and of those a ready one.
// Where an address is used again, the slice of the pod that goes may be seen with
// that of the one that comes.
func once(all []candidate) []candidate {
	out := all[:0]
	for _, c := range all {
		if last := len(out) - 1; last < 0 || out[last].at != c.at {
			out = append(out, c)
		} else if old := &out[last]; !c.terminating && (old.terminating || c.ready && !old.ready) {
			*old = c
		}
	}
	return out
}
