// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// state is what the kernel holds of ours, as far as this process knows, and
// changes with it. Not safe for concurrent use.
type state struct {
	kernel kernel
	held   map[key]*held
	owned  map[lb.ServiceID]map[key]bool
	// vips and servers count the virtual services of an address and the lists
	// that a server's address is in: each stands in a set once.
	vips, servers map[netip.Addr]int
	// others are addresses that other devices than ours have. Their unknown
	// ports are the machine's.
	others map[netip.Addr]bool
	// inVIPs and inServers are the elements of the sets vips and servers.
	inVIPs, inServers map[netip.Addr]bool
	// draining are virtual services that have servers which are leaving.
	draining map[key]bool
	// touched are the owners of what the last change changed.
	touched map[lb.ServiceID]bool
	// idle are servers that may be in no list any more.
	idle map[netip.Addr]bool
}

func newState(k kernel) *state {
	return &state{
		kernel: k, held: make(map[key]*held), owned: make(map[lb.ServiceID]map[key]bool),
		vips: make(map[netip.Addr]int), servers: make(map[netip.Addr]int),
		others: make(map[netip.Addr]bool), inVIPs: make(map[netip.Addr]bool), inServers: make(map[netip.Addr]bool), draining: make(map[key]bool),
		idle: make(map[netip.Addr]bool),
	}
}

// enter notes a virtual service that the kernel has.
func (s *state) enter(h *held) {
	s.held[h.key] = h
	s.own(h)
	if h.terms&nodePort == 0 {
		s.vips[h.addr.Addr()]++
	}
	for _, d := range h.dests {
		s.servers[d.addr.Addr()]++
		if d.isLeaving() {
			s.draining[h.key] = true
		}
	}
	if h.gone {
		s.draining[h.key] = true
	}
}

func (s *state) own(h *held) {
	if s.owned[h.owner] == nil {
		s.owned[h.owner] = make(map[key]bool)
	}
	s.owned[h.owner][h.key] = true
}

func (s *state) disown(h *held) {
	delete(s.owned[h.owner], h.key)
	if len(s.owned[h.owner]) == 0 {
		delete(s.owned, h.owner)
	}
}

// target is what is wanted at a key, and whose it is.
type target struct {
	owner lb.ServiceID
	want  *virtual // nil: nothing
}

// outcome collects what failed, by owner, and which plans are under way.
type outcome map[lb.ServiceID]error

func (o outcome) fail(id lb.ServiceID, err error) {
	o[id] = errors.Join(o[id], err)
}

// change makes the kernel have what is wanted at these keys, and returns what
// kept services from it.
func (s *state) change(targets map[key]target) outcome {
	failed := make(outcome)
	keys := make([]key, 0, len(targets))
	for k := range targets {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, key.compare)
	plans := make([]plan, 0, len(keys))
	s.touched = make(map[lb.ServiceID]bool)
	for _, k := range keys {
		if h, w := s.held[k], targets[k].want; h != nil || w != nil {
			p := planFor(h, w)
			plans = append(plans, p)
			if len(p.del)+len(p.add)+len(p.steps) > 0 {
				s.touched[targets[k].owner] = true
			}
		}
	}
	if err := s.elements(plans, targets); err != nil {
		for _, p := range plans {
			failed.fail(targets[p.key].owner, err)
		}
		return failed
	}
	for _, p := range plans {
		s.begin(p.key, targets[p.key])
		if err := s.carryOut(p); err != nil {
			failed.fail(targets[p.key].owner, err)
		}
	}
	if err := s.settle(keys); err != nil {
		for _, k := range keys {
			failed.fail(targets[k].owner, err)
		}
	}
	return failed
}

// elements changes the table for all plans at once.
func (s *state) elements(plans []plan, targets map[key]target) error {
	var del, add []element
	vips, servers := make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	for _, p := range plans {
		del, add = append(del, p.del...), append(add, p.add...)
		for _, st := range p.steps {
			switch a := st.dest.addr.Addr(); {
			case st.verb == newDest && !s.inServers[a] && !servers[a]:
				servers[a] = true
				add = append(add, element{set: setServers, addr: a})
			case st.verb == addAddress:
				vips[p.addr.Addr()] = true
			}
		}
	}
	for a := range vips {
		if !s.inVIPs[a] && !s.others[a] {
			add = append(add, element{set: setVIPs, addr: a})
		}
	}
	if len(del)+len(add) == 0 {
		return nil
	}
	if err := s.kernel.change(del, add); err != nil {
		return fmt.Errorf("change table %s: %w", tableName, err)
	}
	for _, e := range add {
		switch e.set {
		case setVIPs:
			s.inVIPs[e.addr] = true
		case setServers:
			s.inServers[e.addr], s.idle[e.addr] = true, true // unless its lists come to have it
		}
	}
	return nil
}

// begin notes what the elements say now.
func (s *state) begin(k key, t target) {
	h := s.held[k]
	if h == nil {
		h = &held{owner: t.owner, virtual: virtual{key: k, terms: t.want.terms}}
		s.enter(h)
	}
	if t.want == nil {
		h.gone = true
		if h.present && h.keeps() {
			h.terms |= leaving
			s.draining[k] = true
		}
		return
	}
	s.disown(h)
	h.owner, h.gone = t.owner, false
	s.own(h)
	h.terms, h.note, h.sources = t.want.terms, t.want.note, t.want.sources
}

// carryOut calls the kernel, and notes what it did.
func (s *state) carryOut(p plan) error {
	h := s.held[p.key]
	for _, st := range p.steps {
		err := s.call(p.key, st)
		if errors.Is(err, errForeign) {
			return errors.Join(s.stepError(p.key, st, err), s.forget(p.key))
		}
		if err != nil {
			return s.stepError(p.key, st, err)
		}
		s.note(h, st)
	}
	return nil
}

func (s *state) stepError(k key, st step, err error) error {
	if st.dest.addr.IsValid() {
		return fmt.Errorf("%s %s of %s: %w", st.verb, st.dest.addr, k, err)
	}
	return fmt.Errorf("%s %s: %w", st.verb, k, err)
}

func (s *state) call(k key, st step) error {
	switch st.verb {
	case addAddress:
		return s.kernel.addAddress(k.addr.Addr())
	case newVirtual:
		return s.kernel.newVirtual(k, st.settings)
	case setVirtual:
		return s.kernel.setVirtual(k, st.settings)
	case delVirtual:
		return s.kernel.delVirtual(k)
	case newDest:
		return s.kernel.newDest(k, st.dest)
	case setDest:
		return s.kernel.setDest(k, st.dest)
	}
	return s.kernel.delDest(k, st.dest)
}

func (s *state) note(h *held, st step) {
	at := func() int { return slices.IndexFunc(h.dests, func(d dest) bool { return d.addr == st.dest.addr }) }
	switch st.verb {
	case newVirtual:
		h.settings, h.present = st.settings, true
	case setVirtual:
		h.settings = st.settings
	case newDest:
		h.dests = slices.Insert(h.dests, 0, st.dest)
		s.servers[st.dest.addr.Addr()]++
	case setDest:
		h.dests[at()] = st.dest
		if st.dest.isLeaving() {
			s.draining[h.key] = true
		}
	case delDest:
		i := at()
		h.dests = slices.Delete(h.dests, i, i+1)
		s.release(st.dest)
	case delVirtual:
		for _, d := range h.dests {
			s.release(d)
		}
		h.dests, h.present = nil, false
	}
}

func (s *state) release(d dest) {
	a := d.addr.Addr()
	s.servers[a]--
	s.idle[a] = true
}
