// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/slots"
)

// What the runs of 10,000 services of 100 backends cost to compile, in the map
// slots, and in this process. Pools are equal where services have the same
// backends, as of several ports of one set of pods.
func BenchmarkRunsOf10kServices(b *testing.B) {
	for _, scheduler := range sched.Names() {
		for _, equal := range []bool{false, true} {
			if equal && scheduler != "mh" {
				continue // nothing is shared
			}
			b.Run(fmt.Sprintf("%s/equal pools=%v", scheduler, equal), func(b *testing.B) {
				services := amount{10_000, 100}.list(scheduler, equal)
				for b.Loop() {
					compileAll(b, services)
				}
			})
		}
	}
}

// amount is how many services there are, of how many backends each.
type amount struct{ services, backends int }

// list are services without frontends.
func (a amount) list(scheduler string, equal bool) []*lb.Service {
	out := make([]*lb.Service, a.services)
	for n := range out {
		svc := &lb.Service{ID: lb.ServiceID{Name: fmt.Sprint("s", n), Family: lb.IPv4}, Scheduler: scheduler}
		for i := range a.backends {
			at := n*a.backends + i
			if equal {
				at = i
			}
			addr := netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)})
			svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.AddrPortFrom(addr, 8080), Weight: uint16(1 + i%10)})
		}
		out[n] = svc
	}
	return out
}

func compileAll(b *testing.B, services []*lb.Service) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	runs := make([]*sched.Run, len(services))
	b.StartTimer()
	for i, svc := range services {
		var err error
		if runs[i], err = sched.Compile(svc, svc.Backends, nil, sched.Position{}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	words, tables := uint64(0), make(map[*uint16]bool)
	for _, run := range runs {
		words += uint64(runWords(run))
		if hasTable(run) && !tables[&run.Slots[0]] {
			tables[&run.Slots[0]] = true
			words += uint64(slots.TableWords(len(run.Slots)))
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(runs)
	b.ReportMetric(float64(words)*8/(1<<20), "MiB-slots")
	b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/(1<<20), "MiB-process")
	b.StartTimer()
}
