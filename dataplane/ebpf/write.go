// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/services"
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
		s.writePools(p)
		p.rec.svc = p.svc
		return s.dropSources(p)
	}
	if p.fresh {
		s.enter(p.rec)
	}
	s.writeSettings(p)
	s.writePools(p)
	p.rec.svc = p.svc
	if err := s.addFrontends(p); err != nil {
		s.retract(p.rec)
		return err
	}
	delete(s.gone, p.rec)
	s.left = s.left || p.rec.held > len(p.svc.Backends) // it has come again, for their sockets too
	return s.dropSources(p)
}

// prepare writes what packets do not see yet: names, zeros, who is let in.
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
	if err := s.zero(p.added); err != nil {
		return err
	}
	return s.addSources(p)
}

// unprepare takes prepare back, and the plan with it.
func (s *state) unprepare(p *plan) error {
	var errs []error
	switch {
	case p.fresh:
		errs = append(errs, s.t.info.Delete(p.rec.hash))
	case p.old != nil && infoOf(p.old) != infoOf(p.svc):
		errs = append(errs, s.t.info.Put(infoOf(p.old)))
	}
	errs = append(errs, s.setSources(p.rec, sourcesOf(p.old)))
	s.cancel(p)
	return errors.Join(errs...)
}

func infoOf(svc *lb.Service) info.Service {
	return info.Service{ID: svc.ID, Scheduler: svc.Scheduler, Flags: svc.SchedulerFlags}
}

// writeSettings writes what a service says beside its pool.
func (s *state) writeSettings(p *plan) {
	if to := settingsOf(p.svc); to != p.rec.settings {
		s.left = s.left || to.Options&^p.rec.settings.Options&bpf.LBServiceOptionsSERVICE_LOST_RESET != 0
		p.rec.settings = to
		s.t.services.Set(p.rec.index, to)
	}
}

// writePools writes backends and runs, publishes them, and begins the rest of
// what was there before.
func (s *state) writePools(p *plan) {
	rec, last := p.rec, lastWeights(p.pools[0].run)
	for i := range p.added {
		s.adopt(&p.added[i])
	}
	var protocols protocolSet
	for _, f := range p.svc.Frontends {
		protocols.add(f.Protocol)
	}
	masquerade := p.svc.Masquerade()
	if !p.repool {
		for _, have := range rec.list {
			s.needBits(have, protocols, masquerade)
		}
		return
	}
	s.turn++
	for i := range p.svc.Backends {
		b, have := &p.svc.Backends[i], p.list[i]
		s.needBits(have, protocols, masquerade)
		s.revive(have)
		have.lastWeight = last(have, b)
		have.in, have.order, have.turn = b, uint32(i), s.turn
		s.store(have)
	}
	for i := range bothPools {
		s.writeRun(p, i)
	}
	for i, which := range bothPools {
		to, pool := &p.pools[i], &rec.pools[i]
		s.t.services.Publish(rec.index, which, to.at.pool)
		s.vacate(pool.at, s.published)
		*pool = poolOf(to)
	}
	for _, b := range rec.list {
		if b.turn != s.turn {
			s.drain(b)
		}
	}
	rec.list = p.list
}

func poolOf(p *plannedPool) pool {
	if p.run == nil {
		return pool{}
	}
	return pool{run: p.run, at: p.at, stood: sched.Position{Next: p.run.Start}}
}

// lastWeights returns a function that says a backend's last weight other than 0.
// It is called for all of the service's backends, in their order.
func lastWeights(run *sched.Run) func(have *backend, b *lb.Backend) uint16 {
	next := 0 // of the run's, which are some of them
	return func(have *backend, b *lb.Backend) uint16 {
		if run != nil && next < len(run.Backends) && run.Backends[next].Addr == b.Addr {
			next++
			return run.LastWeight(next - 1)
		}
		if b.Weight == 0 {
			return have.lastWeight
		}
		return b.Weight
	}
}

func (s *state) writeRun(p *plan, i int) {
	rec, to := p.rec, &p.pools[i]
	if to.run == nil {
		return
	}
	if rec.pools[i].run != nil && s.position(&rec.pools[i]) != to.position {
		// Picks went on since the plan was made: follow them, if what is
		// reserved fits.
		if run, err := s.compile(p, i); err == nil && len(run.Slots) == len(to.run.Slots) {
			to.run = run
		}
	}
	// the pool's backends are the service's, but for those that are outside
	ids, out := s.ids[:0], bothPools[i]
	for _, b := range p.list {
		if b.in.Outside&out == 0 {
			ids = append(ids, b.id)
		}
	}
	s.ids = ids
	s.occupy(to.at, to.run, ids)
}

// addFrontends leads the plan's frontends to its service, all or none.
func (s *state) addFrontends(p *plan) error {
	before := make([]owned, 0, len(p.frontends))
	for _, f := range p.frontends {
		owner := s.owners[f.Key()]
		if err := s.addFrontend(p.rec, f, owner.rec == nil); err != nil {
			return errors.Join(err, s.takeBack(p, before))
		}
		before = append(before, owner)
	}
	return nil
}

// addFrontend leads f to rec; if another service has it, which it has not if it is
// new, it loses it.
func (s *state) addFrontend(rec *record, f lb.Frontend, isNew bool) error {
	if f.IsNodePort() {
		return s.addNodePort(rec, f)
	}
	addr := f.Addr.Addr()
	if rec.addrs.add(addr) {
		s.vipBits.hold(bits.Addr(addr))
	}
	marks := s.marks[addr]
	if marks == 0 {
		if err := s.t.vips.Mark(addr); err != nil {
			return err
		}
	}
	if err := s.t.vips.Put(f, rec.index); err != nil {
		if marks == 0 {
			return errors.Join(err, s.t.vips.Unmark(addr))
		}
		return err
	}
	if isNew {
		s.marks[addr] = marks + 1
	}
	s.owners[f.Key()] = owned{rec, f}
	return nil
}

func (s *state) addNodePort(rec *record, f lb.Frontend) error {
	if port := f.Addr.Port(); rec.ports.add(port) {
		s.portBits.hold(bits.Port(port))
	}
	if err := s.t.vips.Put(f, rec.index); err != nil {
		return err
	}
	s.owners[f.Key()] = owned{rec, f}
	return nil
}

// takeBack gives the first of a plan's frontends to those who had them before.
func (s *state) takeBack(p *plan, before []owned) error {
	var errs []error
	for i, owner := range before {
		if owner.rec != nil {
			errs = append(errs, s.addFrontend(owner.rec, owner.as, false))
		} else {
			errs = append(errs, s.removeFrontend(p.rec, p.frontends[i]))
		}
	}
	return errors.Join(errs...)
}

// removeFrontend deletes f if it still leads to rec.
func (s *state) removeFrontend(rec *record, f lb.Frontend) error {
	if s.owners[f.Key()].rec != rec {
		return nil
	}
	if err := s.t.vips.Delete(f); err != nil {
		return err
	}
	delete(s.owners, f.Key())
	if f.IsNodePort() {
		return nil
	}
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
		keep[f.Key()] = true
	}
	var errs []error
	for _, f := range p.old.Frontends {
		if !keep[f.Key()] {
			errs = append(errs, s.removeFrontend(p.rec, f))
		}
	}
	return errors.Join(errs...)
}

// sourcesOf are the networks that svc (nil: none) takes connections from.
func sourcesOf(svc *lb.Service) []netip.Prefix {
	if svc == nil {
		return nil
	}
	return svc.SourceRanges
}

// addSources lets in whom a plan's service lets in, beside those that it does now.
func (s *state) addSources(p *plan) error {
	if slices.Equal(p.rec.sources, p.svc.SourceRanges) {
		return nil
	}
	return s.setSources(p.rec, append(slices.Clone(p.svc.SourceRanges), p.rec.sources...))
}

// dropSources lets in nobody else.
func (s *state) dropSources(p *plan) error { return s.setSources(p.rec, p.svc.SourceRanges) }

func (s *state) setSources(rec *record, want []netip.Prefix) error {
	if slices.Equal(rec.sources, want) {
		return nil
	}
	have := rec.sources
	rec.sources = want
	return s.t.sources.Sync(rec.index, have, want)
}

// remove takes a service away: first what leads to it, then its pool.
func (s *state) remove(svc *lb.Service) error {
	rec := s.records[svc.ID.Hash()]
	var errs []error
	for _, f := range svc.Frontends {
		errs = append(errs, s.removeFrontend(rec, f))
	}
	errs = append(errs, s.setSources(rec, nil))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove service %s: %w", svc.ID, err)
	}
	s.retract(rec)
	return nil
}

// retract makes a service, to which nothing leads, gone.
func (s *state) retract(rec *record) {
	for i, which := range bothPools {
		s.t.services.Publish(rec.index, which, services.Pool{})
		s.vacate(rec.pools[i].at, s.published)
		rec.pools[i] = pool{}
	}
	for _, b := range rec.list {
		s.drain(b)
	}
	rec.svc, rec.list = nil, nil
	rec.since = s.now()
	s.gone[rec] = struct{}{}
}
