// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// How long it takes to program services into an empty pin path, and to bring
// all of them to a larger generation: carried, applied, published. The programs
// for devices without an Ethernet header are not loaded.
func BenchmarkGeneration(b *testing.B) {
	for _, backends := range []int{10, 100} {
		b.Run(fmt.Sprintf("10k services of %d backends", backends), func(b *testing.B) {
			snap := tenThousand(b, backends)
			var cold, grown time.Duration
			for b.Loop() {
				r := newRig(b, nil)
				r.do(r.d.Close())
				r.limits = DefaultLimits
				r.open()
				cold += timed(func() { r.applied(snap) })
				sizes := needOf(snap).sizes(DefaultLimits)
				for name, n := range sizes {
					sizes[name] = 2 * n
				}
				grown += timed(func() {
					if _, err := r.d.build(snap, sizes); err != nil {
						b.Fatal(err)
					}
				})
				r.follow()
				r.wantSYNs(1, 0) // it is nobody's
			}
			b.ReportMetric(float64(cold.Milliseconds())/float64(b.N), "ms-cold")
			b.ReportMetric(float64(grown.Milliseconds())/float64(b.N), "ms-larger")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func (r *rig) applied(snap *lb.Snapshot) {
	r.t.Helper()
	if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		r.t.Fatalf("apply: error %v, %d failed", rep.Err, len(rep.Failed))
	}
}

func tenThousand(b *testing.B, backends int) *lb.Snapshot {
	services := manyServices("rr", false)
	for n, svc := range services {
		svc.Backends = svc.Backends[:backends]
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(n >> 8), byte(n)}), 80)
		svc.Frontends = []lb.Frontend{{Addr: vip, Protocol: lb.TCP}}
	}
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	return snap
}
