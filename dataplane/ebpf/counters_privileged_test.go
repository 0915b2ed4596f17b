// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"runtime"
	"testing"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

// onEachCPU calls f on each CPU that is there.
func onEachCPU(t testing.TB, f func(cpu int)) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			t.Error(err)
		}
	}()
	for cpu := range cilium.MustPossibleCPU() {
		if !all.IsSet(cpu) {
			continue
		}
		one.Zero()
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		f(cpu)
	}
}

// countEverywhere makes a connection on each CPU and wants it counted there.
func (r *rig) countEverywhere(when string) {
	r.t.Helper()
	r.follow()
	onEachCPU(r.t, func(cpu int) {
		element := uint32(cpu)*r.d.gen.Load.MaxEntries() + r.idOf("web", 1)
		var before, after bpf.LBBackendStats
		r.do(r.d.gen.Stats.Lookup(element, &before))
		r.connect(1)
		r.do(r.d.gen.Stats.Lookup(element, &after))
		in, out := after.InPackets-before.InPackets, after.OutPackets-before.OutPackets
		if n := after.Connections - before.Connections; n != 1 || in != 2 || out != 1 {
			r.t.Errorf("%s: on CPU %d %d connections, %d packets in, %d out, want 1, 2 and 1", when, cpu, n, in, out)
		}
	})
}

func TestEachCPUCountsForItself(t *testing.T) {
	r := growing(t, DefaultLimits)
	web := serve("web", []int{1}, 1)
	r.apply(web)
	r.countEverywhere("at first")
	r.apply(append(many(1500), web)...)
	r.countEverywhere("with more backends")
	r.growUntil(loader.GrowthNext)
	r.countEverywhere("while the flow table grows")
	r.grow()
	r.countEverywhere("after that")
	c, err := r.d.Counters()
	r.do(err)
	n := 0
	onEachCPU(t, func(int) { n++ })
	got := c.Backends[lb.BackendID{Service: web.ID, Addr: serverAt(1)}]
	if n *= 4; got.Connections != uint64(n) || got.InPackets != uint64(2*n) || got.OutPackets != uint64(n) {
		t.Errorf("%+v, want %d connections", got, n)
	}
}
