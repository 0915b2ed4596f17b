// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/stats"
)

// write carries a plan out. What the kernel can refuse comes first, so that on
// an error the service is as it was.
func (s *state) write(p *plan) error {
	if err := s.prepare(p); err != nil {
		return errors.Join(err, s.unprepare(p))
	}
	if p.old != nil {
		// New frontends may pick from the old set until the next line.
		if err := s.addFrontends(p); err != nil {
			return errors.Join(err, s.unprepare(p))
		}
		s.writeSettings(p)
		s.writePool(p)
		p.rec.svc = p.svc
		return nil
	}
	if p.fresh {
		s.enter(p.rec)
	}
	s.writeSettings(p)
	s.writePool(p)
	p.rec.svc = p.svc
	if err := s.addFrontends(p); err != nil {
		s.retract(p.rec)
		return err
	}
	delete(s.gone, p.rec)
	return nil
}

// prepare writes what packets do not see yet: names, zeros, hashes.
func (s *state) prepare(p *plan) error {
	if p.old == nil || infoOf(p.old) != infoOf(p.svc) {
		if err := s.t.info.Put(infoOf(p.svc)); err != nil {
			return err
		}
	}
	for _, b := range p.svc.Backends {
		if err := s.needPort(b.Addr.Port()); err != nil {
			return err
		}
	}
	if err := stats.Zero(s.t.stats, p.ids); err != nil {
		return err
	}
	hashes := make([]uint64, len(p.added))
	for i, b := range p.added {
		hashes[i] = lb.BackendHash(p.rec.hash, b.Addr)
	}
	return s.t.backendIDs.Put(hashes, p.ids)
}

// unprepare takes prepare back, and the plan with it.
func (s *state) unprepare(p *plan) error {
	var errs []error
	for _, b := range p.added {
		errs = append(errs, s.t.backendIDs.Delete(lb.BackendHash(p.rec.hash, b.Addr)))
	}
	switch {
	case p.fresh:
		errs = append(errs, s.t.info.Delete(p.rec.hash))
	case p.old != nil && infoOf(p.old) != infoOf(p.svc):
		errs = append(errs, s.t.info.Put(infoOf(p.old)))
	}
	s.cancel(p)
	return errors.Join(errs...)
}

func infoOf(svc *lb.Service) info.Service {
	return info.Service{ID: svc.ID, Scheduler: svc.Scheduler, Flags: svc.SchedulerFlags}
}

// writeSettings writes what a service says beside its pool.
func (s *state) writeSettings(p *plan) {
	if to := settingsOf(p.svc); to != p.rec.settings {
		p.rec.settings = to
		s.t.services.Set(p.rec.index, to)
	}
}

// writePool writes backends and run, publishes them, and begins the rest of
// what was there before.
func (s *state) writePool(p *plan) {
	rec := p.rec
	for i, b := range p.added {
		s.adopt(rec, b.Addr, p.ids[i])
	}
	protocols := make(map[lb.Protocol]bool, 2)
	for _, f := range p.svc.Frontends {
		protocols[f.Protocol] = true
	}
	for i, b := range p.svc.Backends {
		have := rec.backends[b.Addr]
		s.needBits(have, protocols, p.svc.Masquerade)
		if p.run == nil {
			continue
		}
		s.revive(have)
		have.in, have.lastWeight, have.order = b, p.run.LastWeight(i), uint32(i)
		s.store(have)
	}
	if p.run == nil {
		return
	}
	s.writeRun(p)
	s.t.services.Publish(rec.index, p.at.pool)
	s.vacate(rec.at, s.published)
	rec.run, rec.at, rec.stood = p.run, p.at, sched.Position{Next: p.run.Start}
	s.drainAbsent(rec, p.svc)
}

func (s *state) writeRun(p *plan) {
	rec := p.rec
	if rec.run != nil && s.position(rec) != p.position {
		// Picks went on since the plan was made: follow them, if what is
		// reserved fits.
		if run, err := s.compile(p); err == nil && len(run.Slots) == len(p.run.Slots) {
			p.run = run
		}
	}
	ids := make([]uint32, len(p.run.Backends))
	for i, b := range p.run.Backends {
		ids[i] = rec.backends[b.Addr].id
	}
	s.occupy(p.at, p.run, ids)
}

// drainAbsent drains the backends of a record's service that svc (nil: none) does
// not have. Those that left it before may be many, and are not looked at.
func (s *state) drainAbsent(rec *record, svc *lb.Service) {
	if rec.svc == nil {
		return
	}
	keep := make(map[netip.AddrPort]bool)
	if svc != nil {
		for _, b := range svc.Backends {
			keep[b.Addr] = true
		}
	}
	for _, b := range rec.svc.Backends {
		if !keep[b.Addr] {
			s.drain(rec.backends[b.Addr])
		}
	}
}

// addFrontends leads the plan's frontends to its service, all or none.
func (s *state) addFrontends(p *plan) error {
	before := make([]*record, 0, len(p.frontends))
	for _, f := range p.frontends {
		owner := s.owners[f]
		if err := s.addFrontend(p.rec, f, p.svc.Masquerade); err != nil {
			return errors.Join(err, s.takeBack(p, before))
		}
		before = append(before, owner)
	}
	return nil
}

// addFrontend leads f to rec; if another service has it, it loses it.
func (s *state) addFrontend(rec *record, f lb.Frontend, m lb.Masquerade) error {
	addr := f.Addr.Addr()
	if !rec.addrs[addr] {
		rec.addrs[addr] = true
		s.vipBits.hold(bits.Addr(addr))
	}
	if s.marks[addr] == 0 {
		if err := s.t.vips.Mark(addr); err != nil {
			return err
		}
	}
	if err := s.t.vips.Put(f, rec.index, m); err != nil {
		if s.marks[addr] == 0 {
			return errors.Join(err, s.t.vips.Unmark(addr))
		}
		return err
	}
	if s.owners[f] == nil {
		s.marks[addr]++
	}
	s.owners[f] = rec
	return nil
}

// takeBack gives the first of a plan's frontends to those who had them before.
func (s *state) takeBack(p *plan, before []*record) error {
	var errs []error
	for i, owner := range before {
		if owner != nil {
			errs = append(errs, s.addFrontend(owner, p.frontends[i], owner.svc.Masquerade))
		} else {
			errs = append(errs, s.removeFrontend(p.rec, p.frontends[i]))
		}
	}
	return errors.Join(errs...)
}

// removeFrontend deletes f if it still leads to rec.
func (s *state) removeFrontend(rec *record, f lb.Frontend) error {
	if s.owners[f] != rec {
		return nil
	}
	if err := s.t.vips.Delete(f); err != nil {
		return err
	}
	delete(s.owners, f)
	addr := f.Addr.Addr()
	if s.marks[addr]--; s.marks[addr] > 0 {
		return nil
	}
	delete(s.marks, addr)
	return s.t.vips.Unmark(addr)
}

// dropFrontends deletes those that a change took from a service.
func (s *state) dropFrontends(p *plan) error {
	if p.old == nil {
		return nil
	}
	keep := make(map[lb.Frontend]bool, len(p.svc.Frontends))
	for _, f := range p.svc.Frontends {
		keep[f] = true
	}
	var errs []error
	for _, f := range p.old.Frontends {
		if !keep[f] {
			errs = append(errs, s.removeFrontend(p.rec, f))
		}
	}
	return errors.Join(errs...)
}

// remove takes a service away: first what leads to it, then its pool.
func (s *state) remove(svc *lb.Service) error {
	rec := s.records[svc.ID.Hash()]
	var errs []error
	for _, f := range svc.Frontends {
		errs = append(errs, s.removeFrontend(rec, f))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove service %s: %w", svc.ID, err)
	}
	s.retract(rec)
	return nil
}

// retract makes a service, to which nothing leads, gone.
func (s *state) retract(rec *record) {
	s.t.services.Publish(rec.index, services.Pool{})
	s.vacate(rec.at, s.published)
	s.drainAbsent(rec, nil)
	rec.svc, rec.run, rec.at = nil, nil, place{}
	rec.since = s.now()
	s.gone[rec] = struct{}{}
}
