// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/services"
)

// plan is a service that is about to be written, with everything it needs
// reserved, so that a full map is found before anything is touched.
type plan struct {
	svc *lb.Service
	// old is what rec.svc was; nil for an added service.
	old *lb.Service
	rec *record
	// fresh says that rec was made for this plan.
	fresh bool
	// pools replace the record's if repool is set.
	repool bool
	pools  [len(bothPools)]plannedPool
	// list are the records of svc's backends, in their order, if repool is set; added
	// those of them that are new, with ids of theirs; rec does not have them yet.
	list  []*backend
	added []backend
	// frontends are those that come to the service, or are written afresh.
	frontends []lb.Frontend
	// entries is how many elements of vips they may need.
	entries uint32
	// taken are who has some of the frontends now.
	taken []owned
}

// plannedPool is a pool's next run, at its place, nil: it is not used any more; and
// where the present one stood when it was compiled.
type plannedPool struct {
	run      *sched.Run
	at       place
	position sched.Position
}

// plan reserves what svc needs; entries is what other plans need of vips. On an
// error nothing is reserved.
func (s *state) plan(svc *lb.Service, entries uint32) (_ *plan, err error) {
	if err := supports(svc); err != nil {
		return nil, err
	}
	p := &plan{svc: svc, rec: s.records[svc.ID.Hash()]}
	defer func() {
		if err != nil {
			s.cancel(p)
		}
	}()
	if p.rec == nil {
		index, ok := s.serviceIDs.take()
		if !ok {
			return nil, &FullError{"services", s.t.services.Len()}
		}
		p.rec, p.fresh = s.newRecord(svc.ID, index), true
	}
	if p.rec.id != svc.ID {
		return nil, fmt.Errorf("service %s: it has the same hash as %s: rename one of them", svc.ID, p.rec.id)
	}
	p.old = p.rec.svc
	if err := s.planVIPs(p, entries); err != nil {
		return nil, err
	}
	if p.old != nil && p.old.Scheduler == svc.Scheduler && p.old.SchedulerFlags == svc.SchedulerFlags &&
		slices.Equal(p.old.Backends, svc.Backends) && p.old.UsesLocal() == svc.UsesLocal() {
		return p, nil
	}
	if err := s.planBackends(p); err != nil {
		return nil, err
	}
	return p, s.planPools(p)
}

func (s *state) planVIPs(p *plan, entries uint32) error {
	fresh := make(map[netip.Addr]bool)
	for _, f := range p.svc.Frontends {
		owner := s.owners[f.Key()]
		if owner == (owned{p.rec, f}) {
			continue
		}
		p.frontends = append(p.frontends, f)
		if owner.rec == nil {
			p.entries++
		} else if owner.rec != p.rec {
			p.taken = append(p.taken, owner)
		}
		if a := f.Addr.Addr(); !f.IsNodePort() && s.marks[a] == 0 && !fresh[a] {
			fresh[a] = true
			p.entries++
		}
	}
	used := uint32(len(s.owners) + len(s.marks))
	if used+entries+p.entries > s.t.vips.Len() {
		return &FullError{"vips", s.t.vips.Len()}
	}
	return nil
}

func (s *state) planBackends(p *plan) error {
	p.list = make([]*backend, len(p.svc.Backends))
	hashes := lb.HashesOf(p.rec.hash)
	fresh, before := 0, p.rec.list
	for i := range p.svc.Backends {
		addr := p.svc.Backends[i].Addr
		// most stand where they stood, less those that are gone
		if len(before) > 1 && before[0].in.Addr != addr && before[1].in.Addr == addr {
			before = before[1:]
		}
		if len(before) > 0 && before[0].in.Addr == addr {
			p.list[i], before = before[0], before[1:]
			continue
		}
		if p.rec.held > 0 {
			p.list[i] = s.withHash(hashes.Backend(addr))
		}
		if b := p.list[i]; b == nil {
			fresh++
		} else if b.in.Addr != addr || b.owner != p.rec {
			return fmt.Errorf("service %s: backend %s has the same hash as %s of %s: give it another port", p.svc.ID, addr, b.in.Addr, b.owner.id)
		}
	}
	if fresh == 0 {
		return nil
	}
	p.added = make([]backend, 0, fresh)
	for i := range p.svc.Backends {
		if p.list[i] != nil {
			continue
		}
		id, ok := s.takeBackendID()
		if !ok {
			return &FullError{"backends", s.t.backends.Len()}
		}
		in := &p.svc.Backends[i]
		p.added = append(p.added, backend{id: id, hash: hashes.Backend(in.Addr), owner: p.rec, in: in})
		p.list[i] = &p.added[len(p.added)-1]
	}
	return nil
}

func (s *state) planPools(p *plan) (err error) {
	p.repool = true
	for i, which := range bothPools {
		to := &p.pools[i]
		if which == lb.Local && !p.svc.UsesLocal() {
			continue
		}
		if to.run, err = s.compile(p, i); err != nil {
			return fmt.Errorf("service %s: %w", p.svc.ID, err)
		}
		if err := supportsRun(p.svc, to.run); err != nil {
			to.run = nil
			return err
		}
		if to.at, err = s.reserve(to.run); err != nil {
			return err
		}
	}
	// others have backends: the packet is for them
	if cluster, local := p.pools[0].run, p.pools[1].run; local != nil && len(local.Backends) == 0 && len(cluster.Backends) > 0 {
		p.pools[1].at.pool.Flags = services.EmptyDrop
	}
	return nil
}

// compile makes the run that goes on where the present one of pool i is.
func (s *state) compile(p *plan, i int) (*sched.Run, error) {
	prev := &p.rec.pools[i]
	if prev.run != nil {
		p.pools[i].position = s.position(prev)
	}
	return sched.Compile(p.svc, p.svc.Pool(bothPools[i]), prev.run, p.pools[i].position)
}

// cancel gives back what a plan reserved.
func (s *state) cancel(p *plan) {
	if p.fresh {
		s.serviceIDs.release(p.rec.index)
	}
	for i := range p.added {
		s.backendIDs.release(p.added[i].id)
	}
	for i := range p.pools {
		s.vacate(p.pools[i].at, false)
	}
}

// position is where a pool's run stands.
func (s *state) position(p *pool) sched.Position {
	if p.at.words > 0 && p.run.Rule == sched.Cursor {
		return s.t.slots.Position(p.at.pool.Base)
	}
	return p.stood
}
