// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// kernelModel is a small kernel: lists as IPVS keeps them, and errors where the
// real one has them. What it was called for is in calls.
type kernelModel struct {
	t         *testing.T
	addresses map[netip.Addr]bool
	virtuals  map[key]*virtual
	elements  map[element]bool
	frontends map[key]bool              // those that elements have
	loads_    map[netip.AddrPort]uint64 // connections of servers
	calls     []string
	fail      map[string]error // by a part of the call
}

func newModel(t *testing.T) *kernelModel {
	return &kernelModel{
		t: t, addresses: make(map[netip.Addr]bool), virtuals: make(map[key]*virtual), elements: make(map[element]bool), frontends: make(map[key]bool),
		loads_: make(map[netip.AddrPort]uint64), fail: make(map[string]error),
	}
}

func (m *kernelModel) call(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	m.calls = append(m.calls, text)
	for part, err := range m.fail {
		if strings.Contains(text, part) {
			return err
		}
	}
	return nil
}

// took returns the calls since it was called last.
func (m *kernelModel) took() []string {
	out := m.calls
	m.calls = nil
	return out
}

func (m *kernelModel) addAddress(a netip.Addr) error {
	m.addresses[a] = true
	return m.call("address %s", a)
}

func (m *kernelModel) delAddress(a netip.Addr) error {
	delete(m.addresses, a)
	return m.call("no address %s", a)
}

func (m *kernelModel) newVirtual(k key, s settings) error {
	if err := m.call("new %s %s", k, s); err != nil {
		return err
	}
	if m.virtuals[k] != nil {
		return errForeign
	}
	m.virtuals[k] = &virtual{key: k, settings: s}
	return nil
}

func (m *kernelModel) setVirtual(k key, s settings) error {
	if err := m.call("set %s %s", k, s); err != nil {
		return err
	}
	m.at(k).settings = s
	return nil
}

func (m *kernelModel) delVirtual(k key) error {
	delete(m.virtuals, k)
	return m.call("delete %s", k)
}

func (m *kernelModel) at(k key) *virtual {
	if m.virtuals[k] == nil {
		m.t.Errorf("there is no virtual service %s", k)
		return &virtual{}
	}
	return m.virtuals[k]
}

func (m *kernelModel) find(k key, d dest) int {
	return slices.IndexFunc(m.at(k).dests, func(o dest) bool { return o.addr == d.addr })
}

func (m *kernelModel) newDest(k key, d dest) error {
	if err := m.call("new %s -> %s", k, d); err != nil {
		return err
	}
	if m.find(k, d) >= 0 {
		return errors.New("exists")
	}
	v := m.at(k)
	v.dests = append([]dest{d}, v.dests...)
	return nil
}

func (m *kernelModel) setDest(k key, d dest) error {
	if err := m.call("set %s -> %s", k, d); err != nil {
		return err
	}
	i := m.find(k, d)
	if i < 0 {
		return errors.New("no such server")
	}
	m.at(k).dests[i] = d
	return nil
}

func (m *kernelModel) delDest(k key, d dest) error {
	if err := m.call("delete %s -> %s", k, d.addr); err != nil {
		return err
	}
	v, i := m.at(k), m.find(k, d)
	if i < 0 {
		return errors.New("no such server")
	}
	v.dests = slices.Delete(v.dests, i, i+1)
	return nil
}

func (m *kernelModel) loads(k key) (out []load, err error) {
	for _, d := range m.at(k).dests {
		out = append(out, load{dest: d, active: m.loads_[d.addr]})
	}
	return out, m.call("loads %s", k)
}

func (m *kernelModel) change(del, add []element) error {
	err := m.call("elements -%d +%d", len(del), len(add))
	if err != nil {
		return err
	}
	for _, e := range del {
		if !m.elements[e] {
			m.t.Errorf("element %+v is deleted and not there", e)
		}
		delete(m.elements, e)
		if e.set == setFrontends {
			delete(m.frontends, e.key)
		}
	}
	for _, e := range add {
		if m.elements[e] || e.set == setFrontends && m.frontends[e.key] {
			m.t.Errorf("element %+v is added and there", e)
		}
		m.elements[e] = true
		m.frontends[e.key] = m.frontends[e.key] || e.set == setFrontends
	}
	return nil
}

func (m *kernelModel) replace(set setName, networks []netip.Prefix) error {
	return m.call("%s %v", set, networks)
}

func (m *kernelModel) tellPods(devices []string) error { return m.call("pods by %v", devices) }

// String is how calls show a server: address*weight, and what it is marked as.
func (d dest) String() string {
	switch {
	case d.isLeaving():
		return fmt.Sprintf("%s leaving", d.addr)
	case d.upper == mark:
		return fmt.Sprintf("%s*%d unhealthy", d.addr, d.lower)
	case d.upper > 0:
		return fmt.Sprintf("%s*%d %d-%d", d.addr, d.weight, d.lower, d.upper)
	}
	return fmt.Sprintf("%s*%d", d.addr, d.weight)
}

func (s settings) String() string { return fmt.Sprintf("%s %#x", s.scheduler, s.flags) }
