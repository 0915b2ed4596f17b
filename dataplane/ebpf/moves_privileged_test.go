// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
)

func TestFrontendsMoveBetweenServicesAndBack(t *testing.T) {
	r := newRig(t, nil)
	both := []*lb.Service{serve("a", from(1, 2), 1, 2), serve("b", from(3, 4), 3)}
	r.apply(both...)
	r.wantSYNs(2, 1)
	client, _ := r.connect(2) // at 2
	for range 3 {
		r.wantHeld(r.apply(serve("a", from(1, 2), 1), serve("b", from(3, 4), 2, 3)))
		if got := r.syn(2); got != 3 && got != 4 {
			t.Errorf("VIP 2 leads to %d, want b's 3 or 4", got)
		}
		r.wantStays(client, 2, 2)
		r.wantHeld(r.apply(both...))
		if got := r.syn(2); got != 1 && got != 2 {
			t.Errorf("VIP 2 leads to %d, want a's 1 or 2", got)
		}
		r.wantStays(client, 2, 2)
	}
}

// Swaps need no room beyond what is taken: each frontend has its entry already.
func TestVIPsAreSwappedInOneApply(t *testing.T) {
	r := newRig(t, map[string]uint32{"vips": 6})
	names := []string{"a", "b", "c"}
	at := []int{1, 2, 3}
	for range 5 {
		var services []*lb.Service
		for i, name := range names {
			services = append(services, serve(name, []int{10 + i}, at[i]))
		}
		r.wantHeld(r.apply(services...))
		for i := range names {
			r.wantSYNs(at[i], 10+i)
		}
		at = append(at[1:], at[0]) // all three around
	}
	a, b := serve("a", []int{10}, at[1]), serve("b", []int{11}, at[0])
	r.wantHeld(r.apply(a, b, serve("c", []int{12}, at[2]))) // two of them
	r.wantSYNs(at[1], 10)
	r.wantSYNs(at[0], 11)
	r.wantSYNs(at[2], 12)
}

// A frontend of a service that fails stays with it: who wants it fails too, and
// who wants one of theirs. What they need is not lost.
func TestWhoWantsAFrontendOfAServiceThatFailsFailsToo(t *testing.T) {
	r := newRig(t, map[string]uint32{"slots": 26, "backends": 9, "load": 9, "backend_ids": 9})
	a, b, c, d := serve("a", []int{1}, 1), serve("b", []int{2}, 2), serve("c", []int{3}, 3), serve("d", []int{4}, 4)
	r.apply(a, b, c, d)
	bad := serve("a", []int{1})
	bad.Scheduler = "none"
	for changed := 1; changed >= 0; changed-- {
		rep := r.d.Apply(r.snapshot(bad, serve("b", []int{2, 6}, 1), serve("c", []int{3, 7, 8}, 2), serve("d", []int{4, 5}, 4)))
		if len(rep.Failed) != 3 || rep.Failed[d.ID] != nil || rep.Changed != changed || rep.Err != nil {
			t.Errorf("report %+v, want all but d to fail, %d changed", rep, changed)
		}
		r.wantHeld(r.snapshot(a, b, c, serve("d", []int{4, 5}, 4)))
		for n := 1; n <= 3; n++ {
			r.wantSYNs(n, n)
		}
	}
	r.wantHeld(r.apply(serve("a", []int{1}, 2), serve("b", []int{2, 6}, 3), serve("c", []int{3, 7, 8}, 1), serve("d", []int{4, 5}, 4)))
}

// twins is this dataplane and the fake one, which are given the same.
type twins struct {
	*rig
	fake   *fake.Dataplane
	random *rand.Rand
}

// randomServices fight for a few VIPs; some cannot be applied.
func (w *twins) randomServices() (out []*lb.Service) {
	services := make(map[int]*lb.Service)
	for n := 1; n <= 6; n++ {
		o := w.random.IntN(6)
		if o == 0 {
			continue
		}
		if services[o] == nil {
			services[o] = serve(fmt.Sprint("service-", o), w.random.Perm(6)[:w.random.IntN(6)])
			services[o].Scheduler = []string{"rr", "wrr", "rr", "wrr", "rr", "wrr", "none"}[w.random.IntN(7)]
			for i := range services[o].Backends {
				b := &services[o].Backends[i]
				*b = lb.Backend{Addr: serverAt(numberOf(b.Addr) + 1), Weight: uint16(w.random.IntN(4))}
			}
			out = append(out, services[o])
		}
		services[o].Frontends = append(services[o].Frontends, frontendAt(n))
	}
	return out
}

// edited changes a few services of a snapshot a little: what random ones seldom
// do.
func (w *twins) edited(services []*lb.Service) (out []*lb.Service) {
	for _, svc := range services {
		c := *svc
		c.Backends = slices.Clone(svc.Backends)
		switch n := w.random.IntN(8); {
		case n == 0:
			continue
		case n == 1 && len(c.Backends) > 0:
			c.Backends = c.Backends[1:]
		case n == 2:
			w.random.Shuffle(len(c.Backends), func(i, j int) { c.Backends[i], c.Backends[j] = c.Backends[j], c.Backends[i] })
		case n == 3 && len(c.Backends) > 0:
			c.Backends[0].Weight = uint16(w.random.IntN(4))
		case n == 4:
			c.Scheduler = "rr"
		case n == 5:
			c.Frontends = c.Frontends[:len(c.Frontends)-1]
		}
		out = append(out, &c)
	}
	return out
}

// wantSame applies to both and compares reports, what is held, and a few new
// clients' servers.
func (w *twins) wantSame(services []*lb.Service) {
	w.t.Helper()
	snap := w.snapshot(services...)
	got, want := w.d.Apply(snap), w.fake.Apply(snap)
	if got.Err != nil || want.Err != nil {
		w.t.Fatalf("apply: %v; fake: %v", got.Err, want.Err)
	}
	for _, svc := range services {
		if (got.Failed[svc.ID] == nil) != (want.Failed[svc.ID] == nil) {
			w.t.Errorf("%s: %v; fake: %v", svc.ID, got.Failed[svc.ID], want.Failed[svc.ID])
		}
	}
	if got.Added != want.Added || got.Changed != want.Changed || got.Removed != want.Removed {
		w.t.Errorf("report %+v; fake: %+v", got, want)
	}
	held, err := w.fake.Read()
	w.do(err)
	w.wantHeld(held)
	for range w.random.IntN(8) {
		n := 1 + w.random.IntN(6)
		client, got := w.begin(n)
		out := w.fake.Kernel().Ingress(fake.Packet{Src: client, Dst: vipAt(n), Protocol: lb.TCP, Flags: fake.SYN})
		want := -1
		switch out.Verdict {
		case lb.Pass:
			want = 0
		case lb.Forward:
			want = numberOf(out.Dst)
		}
		if got != want {
			w.t.Errorf("VIP %d: server %d; fake: %d", n, got, want)
		}
	}
}

// Whatever the snapshots, in whatever order, with processes that die between
// them: this dataplane holds and picks as the fake one.
func TestRandomSnapshotsAreAppliedAsTheFakeDoes(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := &twins{rig: newRig(t, nil), fake: fake.New(fake.Options{}), random: rand.New(rand.NewPCG(seed, 7))}
			var services []*lb.Service
			for round := range 150 {
				if round%2 == 0 || len(services) == 0 {
					services = w.randomServices()
				} else {
					services = w.edited(services)
				}
				w.wantSame(services)
				switch {
				case round%40 == 39:
					w.do(w.Restart())
					w.fake = fake.New(fake.Options{Kernel: w.fake.Kernel()})
				case round%7 == 0:
					w.age(grace)
				}
				if t.Failed() {
					t.Fatalf("round %d: %q", round, described(w.snapshot(services...)))
				}
			}
		})
	}
}
