// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/lb"
)

func backend(n int, weight uint16) lb.Backend {
	return lb.Backend{Addr: netip.MustParseAddrPort(fmt.Sprintf("198.19.0.%d:8080", n)), Weight: weight}
}

// model is IPVS's rr and wrr written down as they are described: one walk for
// each pick, and one reaction to each change.
type model struct {
	name string
	list []lb.Backend
	last netip.AddrPort
	wrr  wrrState
}

func (m *model) pick() (netip.AddrPort, bool) {
	if !slices.ContainsFunc(m.list, func(b lb.Backend) bool { return b.Weight > 0 }) {
		return netip.AddrPort{}, false
	}
	if m.name == "wrr" {
		i := m.wrr.pick(m.list, indexOf(m.list, m.wrr.last))
		m.wrr.last = m.list[i].Addr
		return m.wrr.last, true
	}
	for i := indexOf(m.list, m.last) + 1; ; i++ {
		if b := m.list[i%len(m.list)]; b.Weight > 0 {
			m.last = b.Addr
			return b.Addr, true
		}
	}
}

func (m *model) remove(i int) {
	if m.list[i].Addr == m.last {
		m.last = netip.AddrPort{}
		if i > 0 {
			m.last = m.list[i-1].Addr
		}
	}
	m.list = slices.Delete(slices.Clone(m.list), i, i+1)
}

// One change at a time, any number of picks between: the compiled runs pick
// what the walking model picks.
func TestRunsPickAsTheWalkDoes(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := &model{name: name}
				run, err := Compile(name, nil, nil, 0)
				if err != nil {
					t.Fatal(err)
				}
				taken := uint64(0)
				for range rapid.IntRange(1, 20).Draw(t, "changes") {
					n, w := rapid.IntRange(1, 6).Draw(t, "server"), uint16(rapid.IntRange(0, 6).Draw(t, "weight"))
					switch i := indexOf(m.list, backend(n, 0).Addr); {
					case i < 0:
						m.list = append([]lb.Backend{backend(n, w)}, m.list...)
					case rapid.Bool().Draw(t, "delete"):
						m.remove(i)
					case m.list[i].Weight == w:
						continue // picks already taken stay to be told
					default:
						m.list = slices.Clone(m.list)
						m.list[i].Weight = w
					}
					m.wrr.changed(m.list)
					picks := rapid.IntRange(0, 40).Draw(t, "picks")
					if run, err = Compile(name, m.list, run, taken); err != nil {
						t.Fatal(err)
					}
					for i := range picks {
						want, ok := m.pick()
						got, gok := run.Pick(uint64(i))
						if ok != gok || (ok && run.Backends[got].Addr != want) {
							t.Fatalf("pick %d of %v: %v %v, want %v %v", i, m.list, got, gok, want, ok)
						}
					}
					taken = uint64(picks)
				}
			})
		})
	}
}

func TestAScheduleGoesOnAfterNothingChanged(t *testing.T) {
	list := []lb.Backend{backend(3, 2), backend(2, 3), backend(1, 4)}
	for _, name := range Names() {
		whole, err := Compile(name, list, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(25) {
			again, err := Compile(name, list, whole, n)
			if err != nil {
				t.Fatal(err)
			}
			for i := range uint64(20) {
				want, _ := whole.Pick(n + i)
				if got, _ := again.Pick(i); got != want {
					t.Fatalf("%s: pick %d after %d: %d, want %d", name, i, n, got, want)
				}
			}
		}
	}
}

func TestWeightsThatMakeTooLongACycleAreRefused(t *testing.T) {
	var list []lb.Backend
	for i := range 5 {
		list = append(list, backend(i+1, uint16(65530+i)))
	}
	_, err := Compile("wrr", list, nil, 0)
	var we *WeightError
	if !errors.As(err, &we) || we.Slots <= MaxSlots {
		t.Errorf("got %v, want a *WeightError", err)
	}
	if _, err := Compile("wrr", []lb.Backend{backend(1, 65535), backend(2, 65534)}, nil, 0); err != nil {
		t.Errorf("two backends: %v", err)
	}
}

func TestUnknownSchedulersAreNamed(t *testing.T) {
	for name, want := range map[string]string{
		"lc":  `scheduler "lc" is not yet supported: write one of rr, wrr`,
		"foo": `unknown scheduler "foo": write one of rr, wrr`,
	} {
		if _, err := Find(name); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

func BenchmarkCompileWRR(b *testing.B) {
	var list []lb.Backend
	for i := range 100 {
		list = append(list, backend(i+1, uint16(1+i%10)))
	}
	for b.Loop() {
		if _, err := Compile("wrr", list, nil, 0); err != nil {
			b.Fatal(err)
		}
	}
}
