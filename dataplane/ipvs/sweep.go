// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// drain looks at all that is leaving.
func (s *state) drain() error {
	keys := make([]key, 0, len(s.draining))
	for k := range s.draining {
		keys = append(keys, k)
	}
	return s.settle(keys)
}

// settle removes what has no connections any more, and what nobody needs of the
// table and the device.
func (s *state) settle(keys []key) error {
	var errs []error
	var gone []*held
	for _, k := range keys {
		h := s.held[k]
		if h == nil {
			continue
		}
		if s.draining[k] {
			errs = append(errs, s.drainOne(h))
		}
		if h.gone && h.present && len(h.dests) == 0 {
			errs = append(errs, s.carryOut(plan{key: k, steps: []step{{verb: delVirtual}}}))
		}
		if h.gone && !h.present {
			gone = append(gone, h)
		}
	}
	return errors.Join(append(errs, s.sweep(gone))...)
}

// drainOne deletes the servers that are leaving and have no connections.
func (s *state) drainOne(h *held) error {
	if !h.present {
		return nil
	}
	loads, err := s.kernel.loads(h.key)
	if err != nil {
		return fmt.Errorf("list the servers of %s: %w", h.key, err)
	}
	p, left := plan{key: h.key}, 0
	for _, l := range loads {
		switch {
		case !l.isLeaving():
		case l.active+l.inactive > 0:
			left++
		default:
			p.steps = append(p.steps, step{verb: delDest, dest: l.dest})
		}
	}
	if left == 0 {
		svc, err := parseNote(h.note, h.owner.Family)
		if plain := h.flags &^ flagFallback; err == nil && svc.SchedulerFlags&lb.SchedulerFallback == 0 && plain != h.flags {
			own := h.settings
			own.flags = plain
			p.steps = append(p.steps, step{verb: setVirtual, settings: own})
		}
	}
	if err := s.carryOut(p); err != nil {
		return err
	}
	if left == 0 {
		delete(s.draining, h.key)
	}
	return nil
}

// forget gives up a key that turned out to be another's.
func (s *state) forget(k key) error { return s.sweep([]*held{s.held[k]}) }

// sweep deletes the elements of virtual services that are gone, and what stood
// in the table and on the device for them alone.
func (s *state) sweep(gone []*held) error {
	var del []element
	var errs []error
	users := make(map[netip.Addr]int) // that go
	for _, h := range gone {
		del = append(del, elementsOf(&h.virtual)...)
		if h.terms&nodePort == 0 {
			users[h.addr.Addr()]++
		}
	}
	for a, n := range users {
		if s.vips[a] > n {
			continue
		}
		errs = append(errs, s.kernel.delAddress(a))
		if s.inVIPs[a] {
			del = append(del, element{set: setVIPs, addr: a})
		}
	}
	for a := range s.idle {
		if s.servers[a] == 0 && s.inServers[a] {
			del = append(del, element{set: setServers, addr: a})
		}
	}
	if len(del) > 0 {
		if err := s.kernel.change(del, nil); err != nil {
			return errors.Join(append(errs, fmt.Errorf("change table %s: %w", tableName, err))...)
		}
	}
	s.swept(gone, del)
	return errors.Join(errs...)
}

// swept notes what sweep did.
func (s *state) swept(gone []*held, del []element) {
	for _, h := range gone {
		s.disown(h)
		delete(s.held, h.key)
		delete(s.draining, h.key)
		a := h.addr.Addr()
		if h.terms&nodePort != 0 {
			continue
		}
		if s.vips[a]--; s.vips[a] == 0 {
			delete(s.vips, a)
		}
	}
	for _, e := range del {
		switch e.set {
		case setVIPs:
			delete(s.inVIPs, e.addr)
		case setServers:
			delete(s.servers, e.addr)
			delete(s.inServers, e.addr)
		}
	}
	clear(s.idle)
}

// setOther says whether another device than ours has an address: its unknown
// ports are the machine's then, and not refused.
func (s *state) setOther(a netip.Addr, has bool) error {
	if has {
		s.others[a] = true
	} else {
		delete(s.others, a)
	}
	want := s.vips[a] > 0 && !has
	if want == s.inVIPs[a] {
		return nil
	}
	e := []element{{set: setVIPs, addr: a}}
	del, add := e, []element(nil)
	if want {
		del, add = nil, e
	}
	if err := s.kernel.change(del, add); err != nil {
		return fmt.Errorf("change table %s: %w", tableName, err)
	}
	if want {
		s.inVIPs[a] = true
	} else {
		delete(s.inVIPs, a)
	}
	return nil
}
