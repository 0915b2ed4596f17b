// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// verb is what a step does.
type verb string

// The verbs.
const (
	addAddress verb = "add address"
	newVirtual verb = "new virtual service"
	setVirtual verb = "set virtual service"
	delVirtual verb = "delete virtual service"
	newDest    verb = "new server"
	setDest    verb = "set server"
	delDest    verb = "delete server"
)

// step is one call of the kernel.
type step struct {
	verb
	settings settings // of virtual services
	dest     dest     // of servers
}

// plan leads one virtual service from what is held to what is wanted: first the
// elements change in one step, together with those of other plans, then the
// steps follow in their order.
type plan struct {
	key
	del, add []element
	steps    []step
}

// held is a virtual service as the kernel has it.
type held struct {
	owner lb.ServiceID
	virtual
	// present says that there is a virtual service, not just its elements; gone,
	// that none is wanted.
	present, gone bool
}

// planFor plans one key. Nil for h: there is none; nil for w: none is wanted.
func planFor(h *held, w *virtual) plan {
	switch {
	case w == nil:
		return planLeave(h)
	case h == nil:
		return planNew(w)
	}
	p := plan{key: w.key}
	p.replace(h, w)
	if !h.present {
		p.create(w)
		return p
	}
	steps := planDests(&h.virtual, w)
	if s := effective(w.settings, leavers(h.dests, steps)); s != h.settings {
		p.steps = append(p.steps, step{verb: setVirtual, settings: s})
	}
	p.steps = append(p.steps, steps...)
	return p
}

func planNew(w *virtual) plan {
	p := plan{key: w.key, add: elementsOf(w)}
	p.create(w)
	return p
}

// create adds the servers as whoever types the list from its end: so the first of
// it is the newest, and the kernel's first.
func (p *plan) create(w *virtual) {
	if w.terms&nodePort == 0 {
		p.steps = append(p.steps, step{verb: addAddress})
	}
	p.steps = append(p.steps, step{verb: newVirtual, settings: w.settings})
	for _, d := range slices.Backward(w.dests) {
		p.steps = append(p.steps, step{verb: newDest, dest: d})
	}
}

// planLeave lets the connections go on to their end, or ends them.
func planLeave(h *held) plan {
	p := plan{key: h.key}
	if !h.keeps() || !h.present {
		p.steps = append(p.steps, step{verb: delVirtual})
		return p
	}
	if h.terms&leaving == 0 {
		gone := h.virtual
		gone.terms |= leaving
		p.replace(h, &gone)
	}
	for _, d := range h.dests {
		if !d.isLeaving() {
			p.steps = append(p.steps, step{verb: setDest, dest: d.left()})
		}
	}
	return p
}

// keeps says whether connections outlive the service.
func (h *held) keeps() bool {
	svc, err := parseNote(h.note, h.owner.Family)
	return err == nil && svc.Lost == lb.LostKeep && h.flags&flagOnePacket == 0
}

// replace changes the elements that differ.
func (p *plan) replace(h *held, w *virtual) {
	before, after := elementsOf(&h.virtual), elementsOf(w)
	p.del = append(p.del, without(before, after)...)
	p.add = append(p.add, without(after, before)...)
}

// without is a without what b has.
func without(a, b []element) (out []element) {
	has := make(map[element]bool, len(b))
	for _, e := range b {
		has[e] = true
	}
	for _, e := range a {
		if !has[e] {
			out = append(out, e)
		}
	}
	return out
}

// elementsOf are those that are a virtual service's own.
func elementsOf(v *virtual) []element {
	out := []element{{set: v.set(), key: v.key, terms: v.terms, note: v.note}}
	for _, r := range merged(v.sources) {
		out = append(out, element{set: setSources, key: v.key, source: r})
	}
	return out
}

// set is where the element of a frontend is.
func (k key) set() setName {
	if k.addr.Port() == 0 {
		return setAnyPorts
	}
	return setFrontends
}

// merged is without the networks that are in others.
func merged(list []netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		within := func(q netip.Prefix) bool { return q != p && q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if !slices.ContainsFunc(list, within) {
			out = append(out, p)
		}
	}
	return out
}

// planDests changes the servers as an administrator would: deletions, edits, and
// additions at the head. So the kernel's list is the one that other dataplanes
// pick by. If all that take something go at once, additions come first: the list
// comes to the same, and nobody is refused in between.
func planDests(h, w *virtual) []step {
	wanted := make(map[netip.AddrPort]dest, len(w.dests))
	for _, d := range w.dests {
		wanted[d.addr] = d
	}
	known := make(map[netip.AddrPort]dest, len(h.dests))
	var deletions, edits, additions []step
	for _, d := range h.dests {
		known[d.addr] = d
		switch _, ok := wanted[d.addr]; {
		case ok || d.isLeaving() && w.leaves(d):
		case w.leaves(d):
			deletions = append(deletions, step{verb: setDest, dest: d.left()})
		default:
			deletions = append(deletions, step{verb: delDest, dest: d})
		}
	}
	for _, d := range h.dests {
		if next, ok := wanted[d.addr]; ok && next != d {
			edits = append(edits, step{verb: setDest, dest: next})
		}
	}
	for _, d := range slices.Backward(w.dests) {
		if _, ok := known[d.addr]; !ok {
			additions = append(additions, step{verb: newDest, dest: d})
		}
	}
	if stays := func(d dest) bool { return d.weight > 0 && wanted[d.addr].weight > 0 }; !slices.ContainsFunc(h.dests, stays) {
		return slices.Concat(additions, edits, deletions)
	}
	return slices.Concat(deletions, edits, additions)
}

// leaves says whether a server that is no longer wanted keeps its connections.
func (v *virtual) leaves(d dest) bool {
	if v.flags&flagOnePacket != 0 || v.scheduler == "dh" {
		return false // dh has no way around a server that takes nothing new
	}
	svc, err := parseNote(v.note, lb.FamilyOf(v.addr.Addr()))
	return v.stays[d.addr] || err == nil && keepsTCP(svc.Lost, v.proto)
}

// leavers says whether a server is leaving once the steps are done.
func leavers(dests []dest, steps []step) bool {
	state := make(map[netip.AddrPort]bool)
	for _, d := range dests {
		state[d.addr] = d.isLeaving()
	}
	for _, s := range steps {
		state[s.dest.addr] = s.verb == setDest && s.dest.isLeaving()
	}
	for _, is := range state {
		if is {
			return true
		}
	}
	return false
}

// effective are the settings while a server is leaving: it stays in the tables of
// sh and mh, whose clients would be refused until it is gone.
func effective(s settings, leavers bool) settings {
	if leavers && (s.scheduler == "sh" || s.scheduler == "mh") {
		s.flags |= flagFallback
	}
	return s
}
