// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb/sched"
)

// How services and frontends go and come back.

func (m *model) changeFrontend(r *rand.Rand, k *kernel) error {
	f := m.frontends[r.IntN(len(m.frontends))]
	if _, there := m.vips[f.key()]; !there || r.IntN(3) == 0 {
		m.hit("change: a frontend is added")
		return m.serve(k, f, vipFlags(r))
	}
	m.hit("change: a frontend is removed")
	return m.removeFrontend(k, f)
}

func (m *model) removeFrontend(k *kernel, f frontend) error {
	if _, there := m.vips[f.key()]; !there {
		return nil
	}
	delete(m.vips, f.key())
	if err := k.Vips.Delete(f.key()); err != nil {
		return err
	}
	for _, other := range m.frontends {
		if _, there := m.vips[other.key()]; there && other.Addr() == f.Addr() {
			return nil
		}
	}
	if f.isNodePort() {
		return nil
	}
	marker := vipKey{Addr: f.Addr().As16()}
	delete(m.vips, marker)
	return k.Vips.Delete(marker)
}

// removeService takes away what leads to a service, and its pool. Its backends
// drain, and what it says stays.
func (m *model) removeService(k *kernel, s *service) error {
	m.hit("change: a service is removed")
	for _, f := range m.frontends {
		if f.service == s.ID {
			if err := m.removeFrontend(k, f); err != nil {
				return err
			}
		}
	}
	s.away, s.late, s.compiled, s.pools = true, false, [2]*sched.Run{}, [2]pool{}
	if err := m.putService(k, s); err != nil {
		return err
	}
	return m.setStates(k, s, bpf.LBBackendStateBACKEND_DRAINING)
}

func (m *model) addServiceAgain(r *rand.Rand, k *kernel, s *service) error {
	m.hit("change: a service is added again")
	s.away = false
	if err := m.setStates(k, s, bpf.LBBackendStateBACKEND_ACTIVE); err != nil {
		return err
	}
	if err := m.compile(r, k, s); err != nil {
		return err
	}
	for _, f := range m.frontends {
		if f.service == s.ID {
			if err := m.serve(k, f, vipFlags(r)); err != nil {
				return err
			}
		}
	}
	return nil
}

// setStates is for all the backends that a service has.
func (m *model) setStates(k *kernel, s *service, state bpf.LBBackendState) error {
	for _, id := range s.list {
		b := m.backends[id]
		if b.Hash == 0 {
			continue
		}
		b.State = uint8(state)
		if err := m.edit(k, id, b); err != nil {
			return err
		}
	}
	return nil
}
