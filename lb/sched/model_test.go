// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/lb"
)

// model is IPVS's rr and wrr written down as they are described: one walk for
// each pick, and one reaction to each change.
type model struct {
	name       string
	list       []lb.Backend
	full       map[netip.AddrPort]bool // overloaded
	last       netip.AddrPort          // zero: the head
	cw, mw, di int
}

func (m *model) usable(i int) bool { return m.list[i].Usable() && !m.full[m.list[i].Addr] }

func (m *model) weight(i int) int {
	if !m.list[i].Usable() {
		return 0
	}
	return int(m.list[i].Weight)
}

func (m *model) pick() (int, bool) {
	if m.name == "wrr" {
		return m.pickWRR()
	}
	pointer := indexOf(m.list, m.last)
	for k := range m.list {
		if i := (pointer + 1 + k) % len(m.list); m.usable(i) {
			m.last = m.list[i].Addr
			return i, true
		}
	}
	return 0, false
}

func (m *model) pickWRR() (int, bool) {
	if m.mw == 0 {
		return 0, false
	}
	start := m.last
	atHead := start == netip.AddrPort{}
	reached := false // a last pass was reached in this call
	round := false   // the cycle began anew in this call
	for i := indexOf(m.list, start); ; i = head {
		for i++; i < len(m.list); i++ {
			if m.usable(i) && m.weight(i) >= m.cw {
				m.last = m.list[i].Addr
				return i, true
			}
			if round && m.cw <= m.di && m.list[i].Addr == start {
				return 0, false
			}
		}
		if m.cw -= m.di; m.cw <= 0 {
			m.cw = m.mw
			if reached || atHead {
				m.last = netip.AddrPort{}
				return 0, false
			}
			round = true
		}
		reached = m.cw <= m.di
	}
}

func (m *model) measure() {
	m.di, m.mw = 0, 0
	for i := range m.list {
		m.di, m.mw = gcd(m.di, m.weight(i)), max(m.mw, m.weight(i))
	}
	m.di = max(m.di, 1)
	m.mw -= m.di - 1
}

// set is one change of the list.
func (m *model) set(list []lb.Backend) {
	m.list = list
	if m.name != "wrr" {
		return
	}
	m.last = netip.AddrPort{}
	m.measure()
	switch {
	case m.cw > m.mw || m.cw == 0:
		m.cw = m.mw
	case m.di > 1:
		m.cw = m.cw/m.di*m.di + 1
	}
}

func (m *model) remove(i int) {
	if m.name == "rr" && m.list[i].Addr == m.last {
		m.last = netip.AddrPort{}
		if i > 0 {
			m.last = m.list[i-1].Addr
		}
	}
	m.set(slices.Delete(slices.Clone(m.list), i, i+1))
}

// bind is ipvsadm -E -s.
func (m *model) bind(name string) {
	m.name, m.last = name, netip.AddrPort{}
	m.measure()
	m.cw = m.mw
}

// change makes some changes, in the order in which Compile takes apart what it
// is given at once.
func (m *model) change(t *rapid.T) {
	before := m.list
	often := rapid.IntRange(1, 9).Draw(t, "changes of ten")
	happens := func(what string) bool { return rapid.IntRange(1, 10).Draw(t, what) <= often }
	unit := uint16(rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(t, "unit"))
	draw := func(addr netip.AddrPort) lb.Backend {
		return lb.Backend{
			Addr: addr, Weight: unit * uint16(rapid.IntRange(0, 6).Draw(t, "weight")),
			Upper: uint32(rapid.IntRange(0, 1).Draw(t, "upper")), Unhealthy: rapid.IntRange(0, 7).Draw(t, "unhealthy") == 7,
		}
	}
	for _, b := range before {
		if happens("delete") {
			m.remove(indexOf(m.list, b.Addr))
		}
	}
	for i, b := range m.list {
		if n := draw(b.Addr); n != b && happens("edit") {
			list := slices.Clone(m.list)
			list[i] = n
			m.set(list)
		}
	}
	for n := range 6 {
		addr := backend(n+1, 0).Addr
		if indexOf(before, addr) < 0 && happens("add") {
			m.set(append([]lb.Backend{draw(addr)}, m.list...))
		}
	}
}

// overload makes some backends overloaded, and others no longer.
func (m *model) overload(t *rapid.T) {
	clear(m.full)
	many := rapid.IntRange(0, 4).Draw(t, "of four")
	for _, b := range m.list {
		m.full[b.Addr] = rapid.IntRange(1, 4).Draw(t, "overloaded") <= many
	}
}

// Usable and Load make the model a Table.
func (m *model) Usable(i int) bool                  { return m.usable(i) }
func (m *model) Load(int) (active, inactive uint32) { return 0, 0 }

// However the list changes, and whoever is overloaded, compiled runs pick what
// the walking model picks.
func TestRunsPickAsTheWalkDoes(t *testing.T) {
	for _, name := range []string{"rr", "wrr"} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := &model{name: name, full: map[netip.AddrPort]bool{}}
				var run *Run
				var at Position
				for range rapid.IntRange(1, 12).Draw(t, "changes") {
					m.change(t)
					if run != nil && rapid.IntRange(0, 9).Draw(t, "scheduler") == 9 {
						m.bind(map[string]string{"rr": "wrr", "wrr": "rr"}[m.name])
					}
					var err error
					if run, err = Compile(&lb.Service{Scheduler: m.name}, m.list, run, at); err != nil {
						t.Fatal(err)
					}
					at = Position{Next: run.Start}
					walk(t, m, run, &at)
				}
			})
		})
	}
}

// walk compares some picks.
func walk(t *rapid.T, m *model, run *Run, at *Position) {
	for range rapid.IntRange(0, 4).Draw(t, "loads") {
		m.overload(t)
		for range rapid.IntRange(0, 12).Draw(t, "picks") {
			was := *at
			got, gok := run.Select(Packet{}, at, m)
			if want, ok := m.pick(); ok != gok || (ok && got != want) {
				t.Fatalf("%s at %d of %v: %v %v, want %v %v", run.Scheduler, was, m.list, got, gok, want, ok)
			}
		}
	}
}
