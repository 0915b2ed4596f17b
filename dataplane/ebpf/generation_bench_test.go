// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
)

var amounts = []amount{{10_000, 10}, {100_000, 10}, {10_000, 100}}

func (a amount) String() string {
	return fmt.Sprintf("%dk services of %d backends", a.services/1000, a.backends)
}

// How long it takes to program services into an empty pin path, and to bring
// all of them to a larger generation: carried, applied, published; and the memory
// that is taken then, here (the snapshot included) and in the kernel's maps. The
// programs for devices without an Ethernet header are not loaded.
func BenchmarkGeneration(b *testing.B) {
	for _, a := range amounts {
		b.Run(a.String(), func(b *testing.B) {
			snap := a.snapshot(b)
			got := make(readings)
			for b.Loop() {
				r := newRig(b, nil)
				r.do(r.d.Close())
				r.limits = DefaultLimits
				r.open()
				runtime.GC()
				got.timed("cold", func() { r.applied(snap) })
				r.memory(got)
				sizes := needOf(snap).sizes(DefaultLimits)
				for name, n := range sizes {
					sizes[name] = 2 * n
				}
				got.timed("larger", func() {
					if _, err := r.d.build(snap, sizes); err != nil {
						b.Fatal(err)
					}
				})
				r.follow()
				r.wantSYNs(1, 0) // it is nobody's
				r.release()
				r.d = nil
			}
			got.report(b)
		})
	}
}

// readings are what was measured, by unit.
type readings map[string][]float64

// timed measures f: the time that passes, and that of all CPUs which this process takes.
func (r readings) timed(what string, f func()) {
	began, cpu := time.Now(), cpuTime()
	f()
	r.add("ms-"+what, float64(time.Since(began).Microseconds())/1000)
	r.add("ms-"+what+"-CPU", float64((cpuTime()-cpu).Microseconds())/1000)
}

func (r readings) add(unit string, v float64) { r[unit] = append(r[unit], v) }

// report reports the median of each, and the width of the middle half.
func (r readings) report(b *testing.B) {
	for unit, all := range r {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
		b.ReportMetric(all[len(all)*3/4]-all[len(all)/4], unit+"-spread")
	}
	b.ReportMetric(0, "ns/op")
}

func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// memory reads what this process has, and what the maps that grow with services have.
func (r *rig) memory(got readings) {
	r.t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	got.add("MiB-heap", float64(m.HeapAlloc)/(1<<20))
	text, err := os.ReadFile("/proc/self/status")
	r.do(err)
	var kib float64
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(after, &kib)
	r.do(err)
	got.add("MiB-RSS", kib/1024)
	var kernel uint64
	for _, names := range together {
		for _, name := range names {
			kernel += r.memlock(name)
		}
	}
	got.add("MiB-maps", float64(kernel+r.memlock("stats"))/(1<<20))
}

// memlock is what the kernel says that a map takes.
func (r *rig) memlock(name string) uint64 {
	r.t.Helper()
	m := configOf(&r.d.gen.LBMaps)[name]
	if m == nil {
		m = r.d.loader.Map(name)
	}
	if m == nil {
		m = map[string]*cilium.Map{"slots": r.d.gen.Slots, "backend_ids": r.d.gen.BackendIds}[name]
	}
	info, err := m.Info()
	r.do(err)
	n, _ := info.Memlock()
	return n
}

func (r *rig) applied(snap *lb.Snapshot) {
	r.t.Helper()
	if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		r.t.Fatalf("apply: error %v, %d failed", rep.Err, len(rep.Failed))
	}
}

func (a amount) snapshot(b *testing.B) *lb.Snapshot {
	services := a.list("rr", false)
	for n, svc := range services {
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, byte(16 + n>>16), byte(n >> 8), byte(n)}), 80)
		svc.Frontends = []lb.Frontend{{Addr: vip, Protocol: lb.TCP}}
	}
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	return snap
}
