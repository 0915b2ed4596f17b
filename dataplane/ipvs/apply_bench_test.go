// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/lb"
)

// obedient is a kernel that does all it is told, and remembers nothing: what is
// left is the planning.
type obedient struct{}

func (obedient) addAddress(netip.Addr) error           { return nil }
func (obedient) delAddress(netip.Addr) error           { return nil }
func (obedient) newVirtual(key, settings) error        { return nil }
func (obedient) setVirtual(key, settings) error        { return nil }
func (obedient) delVirtual(key) error                  { return nil }
func (obedient) newDest(key, dest) error               { return nil }
func (obedient) setDest(key, dest) error               { return nil }
func (obedient) delDest(key, dest) error               { return nil }
func (obedient) loads(key) ([]load, error)             { return nil, nil }
func (obedient) change(_, _ []element) error           { return nil }
func (obedient) replace(setName, []netip.Prefix) error { return nil }
func (obedient) tellPods([]string) error               { return nil }

// many are services of so many backends.
func many(services, backends int) []*lb.Service {
	out := make([]*lb.Service, services)
	for i := range out {
		ip := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		svc := &lb.Service{ID: lb.ServiceID{Name: fmt.Sprintf("s%d", i), Family: lb.IPv4}, Scheduler: "rr"}
		svc.Frontends = []lb.Frontend{{Addr: netip.AddrPortFrom(ip, 80), Protocol: lb.TCP}}
		for n := range backends {
			at := netip.AddrFrom4([4]byte{172, byte(16 + i%16), byte(n >> 8), byte(n)})
			svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.AddrPortFrom(at, 8080), Weight: 1})
		}
		out[i] = svc
	}
	return out
}

// BenchmarkFirstApply plans all services, as a process does that finds none.
func BenchmarkFirstApply(b *testing.B) {
	for _, size := range []struct{ services, backends int }{{1000, 10}, {10000, 10}, {1, 5000}} {
		snap, err := lb.NewSnapshot(many(size.services, size.backends)...)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%dx%d", size.services, size.backends), func(b *testing.B) {
			for b.Loop() {
				d := newDataplane(slog.New(slog.DiscardHandler), obedient{})
				if rep := d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
					b.Fatal(rep)
				}
			}
		})
	}
}

// BenchmarkOneChange changes the weight of one server among so many services: it
// costs the same among all of them.
func BenchmarkOneChange(b *testing.B) {
	for _, services := range []int{1, 1000, 10000} {
		list := many(services, 10)
		first, err := lb.NewSnapshot(list...)
		if err != nil {
			b.Fatal(err)
		}
		other := *list[0]
		other.Backends = append([]lb.Backend{{Addr: other.Backends[0].Addr, Weight: 2}}, other.Backends[1:]...)
		second, err := first.Update([]*lb.Service{&other}, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			d := newDataplane(slog.New(slog.DiscardHandler), obedient{})
			snaps := [2]*lb.Snapshot{second, first}
			d.Apply(first)
			for i := 0; b.Loop(); i++ {
				if rep := d.Apply(snaps[i%2]); rep.Err != nil || rep.Changed != 1 {
					b.Fatal(rep)
				}
			}
		})
	}
}
