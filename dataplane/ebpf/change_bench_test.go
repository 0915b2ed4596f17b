// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// One change among many services: a backend gets another weight, or one goes and
// another comes. The new snapshot is made before: what is measured is Apply.
func BenchmarkChange(b *testing.B) {
	for _, a := range amounts {
		snap := a.snapshot(b)
		all := slices.Collect(snap.All())
		r := newRig(b, nil)
		r.do(r.d.Close())
		r.limits = DefaultLimits
		r.open()
		r.applied(snap)
		for _, kind := range []struct {
			name   string
			change func(*lb.Backend, int)
		}{
			{"weight", func(b *lb.Backend, n int) { b.Weight = uint16(11 + n%1000) }},
			{"backend", func(b *lb.Backend, n int) {
				b.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)}), 8080)
			}},
		} {
			b.Run(a.String()+"/"+kind.name, func(b *testing.B) {
				var took []time.Duration
				var cpu time.Duration
				for n := 0; b.Loop(); n++ {
					at := rand.IntN(len(all))
					svc := *all[at]
					svc.Backends = slices.Clone(svc.Backends)
					kind.change(&svc.Backends[rand.IntN(len(svc.Backends))], n)
					all[at] = &svc
					next, err := snap.Update([]*lb.Service{&svc}, nil)
					r.do(err)
					snap = next
					began, before := time.Now(), cpuTime()
					r.applied(next)
					cpu += cpuTime() - before
					took = append(took, time.Since(began))
				}
				slices.Sort(took)
				for _, q := range []int{50, 99} {
					b.ReportMetric(float64(took[len(took)*q/100].Nanoseconds())/1000, map[int]string{50: "µs-p50", 99: "µs-p99"}[q])
				}
				b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "µs-CPU")
				b.ReportMetric(0, "ns/op")
			})
		}
		r.release()
		r.d = nil
	}
}
