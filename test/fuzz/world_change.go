// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"

	"github.com/waggle-lb/waggle/bpf"
)

// errFull ends a world: its map of runs is used up.
var errFull = errors.New("no room for another run")

// setPorts says which ports may stand for a client's.
func (w *world) setPorts(r *rand.Rand, k *kernel) error {
	n := []int{0, 1, 3, 8, 64, 100}[r.IntN(6)]
	old := w.ports
	w.ports = nil
	for i := range n {
		w.ports = append(w.ports, uint16(40000+i))
	}
	if err := k.MasqPorts.Put(uint32(0), uint64(n)); err != nil {
		return err
	}
	for i := 0; i < n; i += 4 {
		var word uint64
		for j, port := range w.ports[i:min(i+4, n)] {
			word |= uint64(port) << (16 * j)
		}
		if err := k.MasqPorts.Put(uint32(1+i/4), word); err != nil {
			return err
		}
	}
	words := map[uint32]uint64{}
	for _, port := range old {
		words[uint32(port>>6)] = 0
	}
	for _, port := range w.ports {
		words[uint32(port>>6)] |= 1 << (port & 63)
	}
	for at, word := range words {
		if err := k.MasqPorts.Put(uint32(bpf.LBLimitsMASQ_BITS)+at, word); err != nil {
			return err
		}
	}
	return nil
}

// setDevice gives a device the node's addresses, or none.
func (w *world) setDevice(k *kernel, d *device, has bool) error {
	d.addr4, d.addr6 = addr{}, addr{}
	if has {
		d.addr4, d.addr6 = w.nodes[0].As16(), w.nodes[1].As16()
	}
	return k.Devices.Put(d.index, bpf.LBDevice{Addr4: d.addr4, Addr6: d.addr6})
}

// change is what the agent does now and then.
func (m *model) change(r *rand.Rand, k *kernel) error {
	s := m.services[1+uint32(r.IntN(len(m.services)))]
	id := s.backends[r.IntN(len(s.backends))]
	b := m.backends[id]
	switch r.IntN(13) {
	case 0, 1, 2:
		m.hit("change: a weight")
		b.Weight = uint16(r.IntN(4))
	case 3:
		m.hit("change: a backend drains or comes back")
		b.State ^= uint8(bpf.LBBackendStateBACKEND_ACTIVE) ^ uint8(bpf.LBBackendStateBACKEND_DRAINING)
	case 4:
		return m.replace(r, k, s, id)
	case 5:
		return m.changeFrontend(r, k)
	case 6:
		m.hit("change: a VIP's address is assigned, or no more")
		return m.assign(k, m.frontends[r.IntN(len(m.frontends))].Addr().As16())
	case 7:
		m.hit("change: ports of masquerading")
		return m.setPorts(r, k)
	case 8:
		m.hit("change: a device's addresses")
		return m.setDevice(k, m.devices[r.IntN(len(m.devices))], r.IntN(3) > 0)
	case 9:
		m.hit("change: a scheduler")
		n := newService(r, s.ID, s.proto, s.v6)
		s.rule, s.flags = n.rule, n.flags
	case 10, 11, 12:
		return m.lose(r, k)
	}
	if m.backends[id].Hash != 0 {
		if err := m.put(k, id, b); err != nil {
			return err
		}
	}
	return m.compile(k, s)
}

// replace removes a backend that has flows or not, or brings it back, perhaps
// by another id.
func (m *model) replace(r *rand.Rand, k *kernel, s *service, id uint32) error {
	b := m.backends[id]
	if b.Hash != 0 {
		m.hit("change: a backend is removed")
		if err := m.put(k, id, backend{}); err != nil {
			return err
		}
		m.gone = append(m.gone, goneBackend{s.ID, id, b})
	} else if len(m.gone) > 0 {
		m.hit("change: a backend is added again")
		g := m.gone[0]
		m.gone = m.gone[1:]
		if r.IntN(2) == 0 {
			g.id = m.moved(g)
		}
		if err := m.put(k, g.id, g.backend); err != nil {
			return err
		}
		s = m.services[g.service]
	}
	return m.compile(k, s)
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
	m.forget(e)
	return errors.Join(k.Flows.Delete(e.key), k.Load.Put(e.Backend, *m.load[e.Backend]))
}

type goneBackend struct {
	service, id uint32
	backend     backend
}

// moved gives a backend an id that no other ever had.
func (m *model) moved(g goneBackend) uint32 {
	m.lastID++
	id := 100 + m.lastID
	s := m.services[g.service]
	for i, old := range s.backends {
		if old == g.id {
			s.backends[i] = id
		}
	}
	return id
}

func (m *model) changeFrontend(r *rand.Rand, k *kernel) error {
	f := m.frontends[r.IntN(len(m.frontends))]
	if _, there := m.vips[f.key()]; !there || r.IntN(3) == 0 {
		m.hit("change: a frontend is added")
		return m.serve(k, f, uint32(r.IntN(2)))
	}
	m.hit("change: a frontend is removed")
	delete(m.vips, f.key())
	if err := k.Vips.Delete(f.key()); err != nil {
		return err
	}
	for _, other := range m.frontends {
		if _, there := m.vips[other.key()]; there && other.Addr() == f.Addr() {
			return nil
		}
	}
	marker := vipKey{Addr: f.Addr().As16()}
	delete(m.vips, marker)
	return k.Vips.Delete(marker)
}

func (m *model) assign(k *kernel, a addr) error {
	if m.assigned[a] {
		delete(m.assigned, a)
		return k.NodeAddrs.Delete(a)
	}
	m.assigned[a] = true
	return k.NodeAddrs.Put(a, uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED))
}
