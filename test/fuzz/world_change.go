// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
)

// change is what the agent does now and then.
func (m *model) change(r *rand.Rand, k *kernel) error {
	s := m.services[1+uint32(r.IntN(len(m.services)))]
	if err := m.catchUp(r, k); err != nil {
		return err
	}
	if s.away {
		return m.addServiceAgain(r, k, s)
	}
	if m.portsLater && len(m.gone) > 0 && r.IntN(40) == 0 {
		m.portsLater = false
		return m.bringBack(r, k)
	}
	switch n := r.IntN(33); n {
	case 0, 1, 2, 3, 4, 5, 6:
		return m.changeBackend(r, k, s, n)
	case 7, 8:
		return m.replace(r, k, s, s.list[r.IntN(len(s.list))])
	case 9:
		return m.changeFrontend(r, k)
	case 10:
		return m.changeAddr(r, k)
	case 11:
		m.hit("change: ports of masquerading")
		return m.setPorts(r, k)
	case 12:
		m.hit("change: a device's addresses")
		return m.setDevice(r, k, m.devices[r.IntN(len(m.devices))], r.IntN(3) > 0)
	case 13, 14:
		m.hit("change: a scheduler")
		s.bind(r)
		return m.compile(r, k, s)
	case 15, 16:
		m.hit("change: what a service says")
		s.configure(r)
		return m.putService(k, s)
	case 17:
		m.hit("change: how long flows live")
		return m.setTimeouts(k, m.otherTimeouts(r))
	case 18:
		return m.removeService(k, s)
	case 19, 20, 21, 22:
		return m.changePolicy(r, k, s, n)
	case 23, 24:
		return m.changeBackend(r, k, s, 0)
	case 25, 26:
		return m.changeNode(r, k)
	}
	return m.lose(r, k)
}

// catchUp publishes the runs that are older than the records.
func (m *model) catchUp(r *rand.Rand, k *kernel) error {
	for id := range uint32(len(m.services)) {
		if s := m.services[id+1]; s.late {
			if err := m.compile(r, k, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeBackend edits a backend, or takes it from its service and back. Packets
// may come between its record and the run.
func (m *model) changeBackend(r *rand.Rand, k *kernel, s *service, what int) error {
	id := s.list[r.IntN(len(s.list))]
	b := m.backends[id]
	if b.Hash == 0 {
		return nil
	}
	switch what {
	case 0:
		m.hit("change: a backend's pools")
		if was := b.inNoPool(); was || r.IntN(2) == 0 {
			b.Outside = outside(r)
		} else {
			b.Outside = uint8(poolCluster | poolLocal)
			m.beginAgain(b)
		}
	case 1, 2:
		m.hit("change: a weight")
		b.Weight = s.weight(r)
	case 3, 4:
		m.hit("change: thresholds")
		b.Upper, b.Lower = s.thresholds(r)
	case 5:
		m.hit("change: a backend's health")
		b.State = uint8(bpf.LBBackendStateBACKEND_UNHEALTHY)
		if m.backends[id].State != stActive {
			b.State = stActive
		}
	case 6:
		m.hit("change: a backend drains or comes back")
		b.State = uint8(bpf.LBBackendStateBACKEND_DRAINING)
		if m.backends[id].State != stActive {
			b.State = stActive
			s.toHead(id)
		}
	}
	if err := m.edit(k, id, b); err != nil {
		return err
	}
	if r.IntN(4) == 0 {
		m.hit("change: a run is older than a record")
		s.late = true
		return nil
	}
	return m.compile(r, k, s)
}

// edit writes a record, and says whether the backend is overloaded by other
// thresholds.
func (m *model) edit(k *kernel, id uint32, b backend) error {
	if err := m.put(k, id, b); err != nil {
		return err
	}
	l := m.loadOf(id)
	was := l.Overloaded
	judge(l, b)
	switch {
	case l.Overloaded > was:
		m.hit("change: thresholds overload a backend")
	case l.Overloaded < was:
		m.hit("change: thresholds free a backend")
	}
	return k.changeLoad(id, func(l *gauges) { judge(l, b) })
}

func (k *kernel) changeLoad(id uint32, change func(*gauges)) error {
	var l gauges
	if err := k.Load.Lookup(id, &l); err != nil {
		return err
	}
	change(&l)
	return k.Load.Put(id, l)
}

// toHead makes a backend the newest of its service.
func (s *service) toHead(id uint32) {
	s.list = slices.DeleteFunc(s.list, func(old uint32) bool { return old == id })
	s.list = slices.Insert(s.list, 0, id)
}

// replace removes a backend that has flows or not, or brings one back, or both.
func (m *model) replace(r *rand.Rand, k *kernel, s *service, id uint32) error {
	b := m.backends[id]
	there := b.Hash != 0
	if there {
		m.hit("change: a backend is removed")
		m.gone = slices.Insert(m.gone, r.IntN(len(m.gone)+1), goneBackend{s.ID, id, b})
		b.Hash, b.State = 0, uint8(bpf.LBBackendStateBACKEND_FREE)
		if err := m.put(k, id, b); err != nil {
			return err
		}
	}
	if len(m.gone) > 0 && (!there || r.IntN(3) == 0) {
		if err := m.bringBack(r, k); err != nil {
			return err
		}
	}
	return m.compile(r, k, s)
}

// bringBack adds a backend that was removed, perhaps by another id.
func (m *model) bringBack(r *rand.Rand, k *kernel) error {
	m.hit("change: a backend is added again")
	g := m.gone[0]
	m.gone = m.gone[1:]
	if r.IntN(2) == 0 {
		g.id = m.moved(g)
	}
	s := m.services[g.service]
	s.toHead(g.id)
	if g.backend.Port == 0 && !m.anyPort {
		m.hit("change: the first backend of any port")
	}
	if err := m.needPort(k, g.backend.Port); err != nil {
		return err
	}
	if err := m.edit(k, g.id, g.backend); err != nil {
		return err
	}
	return m.compile(r, k, s)
}

// lose takes a forward entry away, as a lost race between two CPUs leaves the
// rest of a flow.
func (m *model) lose(r *rand.Rand, k *kernel) error {
	if len(m.list) == 0 {
		return nil
	}
	e := m.list[r.IntN(len(m.list))]
	if !e.live() || e.key.Position != uint8(e1) || e.Flags&(fDirect|fResourced) != 0 {
		return nil
	}
	m.hit("change: a forward entry is lost, as in a race")
	m.count(e.Backend, e.State, ^uint32(0))
	m.begun = &e.key
	m.forget(e)
	if err := k.Flows.Delete(e.key); err != nil {
		return err
	}
	return k.changeLoad(e.Backend, func(l *gauges) {
		add(l, e.State, ^uint32(0))
		if b := m.backends[e.Backend]; b.Upper > 0 {
			weigh(l, b)
		}
	})
}

type goneBackend struct {
	service, id uint32
	backend     backend
}

// moved gives a backend an id that no other ever had.
func (m *model) moved(g goneBackend) uint32 {
	m.lastID++
	s := m.services[g.service]
	s.list[slices.Index(s.list, g.id)] = m.lastID
	return m.lastID
}
