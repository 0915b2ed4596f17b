// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

// growing makes a rig whose configuration maps grow up to limits.
func growing(t *testing.T, limits Limits) *rig {
	r := newRig(t, nil)
	r.do(r.d.Close())
	r.limits = limits
	r.open()
	return r
}

// many are services of two backends each, from VIP 10 on.
func many(n int) (out []*lb.Service) {
	for i := range n {
		out = append(out, serve(fmt.Sprintf("many%d", i), []int{1000 + 2*i, 1001 + 2*i}, 10+i))
	}
	return out
}

// wantCounts wants the counts to be those of the flows, and n flows.
func (r *rig) wantCounts(n uint64) {
	r.t.Helper()
	err := r.d.withReader(func(rd *reader) error {
		got, err := rd.Recount(context.Background())
		if err == nil && (got.Difference != 0 || got.Flows != n) {
			r.t.Errorf("%d flows, counts differ by %d (%+v), want %d and no difference", got.Flows, got.Difference, got.Wrong, n)
		}
		return err
	})
	r.do(err)
}

func (r *rig) sizes() map[string]uint32 {
	out := make(map[string]uint32)
	for _, f := range r.d.levels() {
		out[f.Map] = f.Max
	}
	return out
}

func TestConfigurationMapsGrow(t *testing.T) {
	r := growing(t, DefaultLimits)
	web := serve("web", from(1, 4), 1)
	web.Scheduler = "lc"
	r.apply(web)
	before := r.sizes()
	type conn struct {
		client netip.AddrPort
		server int
	}
	var conns []conn
	for range 8 {
		client, server := r.connect(1)
		conns = append(conns, conn{client, server})
	}
	counters, err := r.d.Counters()
	r.do(err)
	number := r.d.gen.Number
	snap := r.apply(append(many(1500), web)...)
	for name, n := range r.sizes() {
		if want := before[name] * 2; name != "slots" && n != want {
			t.Errorf("map %s has %d elements, want %d", name, n, want)
		}
	}
	if r.d.gen.Number == number {
		t.Error("no other generation was published")
	}
	r.wantHeld(snap)
	for _, c := range conns {
		r.wantStays(c.client, 1, c.server)
	}
	after, err := r.d.Counters()
	r.do(err)
	for b, c := range counters.Backends {
		c.InPackets, c.InBytes = c.InPackets+2, after.Backends[b].InBytes // each had two of the flows
		if got := after.Backends[b]; got != c {
			t.Errorf("%v: counters %+v, want %+v", b.Addr, got, c)
		}
	}
	r.wantSYNs(1, 1, 2, 3, 4) // all had the same load
	r.wantSYNs(1500, 1000+2*1490)
	r.wantCounts(8 + 4 + 1)
	if got, err := filepath.Glob(filepath.Join(r.pins, "gen-*")); err != nil || len(got) != 1 {
		t.Errorf("configurations %v, %v, want one", got, err)
	}
	// a restart needs no larger ones, and loses none
	r.do(r.Restart())
	r.apply(append(many(1500), web)...)
	r.wantHeld(snap)
	for _, c := range conns {
		r.wantStays(c.client, 1, c.server)
	}
	r.wantCounts(8 + 4 + 1)
}

// withoutPlaces is a dump less what depends on how large maps are, and on who opened them.
func withoutPlaces(dump map[string]string) map[string]string {
	out := make(map[string]string)
	for key, value := range dump {
		if !strings.Contains(key, "(backend_ids)") {
			out[descriptor.ReplaceAllString(key, "")] = next.ReplaceAllString(value, "")
		}
	}
	return out
}

var descriptor, next = regexp.MustCompile(`#\d+`), regexp.MustCompile(` Next:\d+`)

// Whatever there is: cursors amid a cycle, tables that are shared, source ranges, backends and
// services that only wait for their connections.
func TestALargerConfigurationSaysTheSame(t *testing.T) {
	r := growing(t, DefaultLimits)
	r.apply()
	nothing := withoutPlaces(r.taken())
	rr, wrr, mh, shared, gone := serve("rr", from(1, 4), 1), serve("wrr", from(11, 13), 2), serve("mh", from(21, 23), 3), serve("mh2", from(21, 23), 4), serve("gone", from(31, 32), 5)
	wrr.Scheduler, mh.Scheduler, shared.Scheduler = "wrr", "mh", "mh"
	wrr.Backends[1].Weight = 3
	mh.Frontends[0].Restricted, mh.SourceRanges = true, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	r.apply(rr, wrr, mh, shared, gone)
	drained, server := r.connect(1)
	lost, other := r.connect(5)
	left := serve("rr", slices.DeleteFunc(from(1, 4), func(n int) bool { return n == server }), 1)
	snap := r.apply(left, wrr, mh, shared)
	r.syn(2)
	before := withoutPlaces(r.dump())
	sizes := needOf(snap).sizes(DefaultLimits)
	for name, n := range sizes {
		sizes[name] = 2 * n
	}
	_, err := r.d.build(snap, sizes)
	r.do(err)
	if d := cmp.Diff(before, withoutPlaces(r.dump())); d != "" {
		t.Errorf("(-before +larger):\n%s", d)
	}
	r.wantHeld(snap)
	r.wantStays(drained, 1, server)
	r.wantStays(lost, 5, other)
	for svc := range snap.All() {
		for i := range svc.Backends {
			if id := r.d.state.t.backends.Find(lb.BackendID{Service: svc.ID, Addr: svc.Backends[i].Addr}.Hash()); id == 0 {
				t.Errorf("%s's %s is not found", svc.ID, svc.Backends[i].Addr)
			}
		}
	}
	r.apply()
	r.Advance(48 * time.Hour)
	r.Advance(2 * time.Second)
	r.age(grace) // backends
	r.age(grace) // services
	if d := cmp.Diff(nothing, withoutPlaces(r.taken())); d != "" {
		t.Errorf("left when all is gone (-before +after):\n%s", d)
	}
}

func TestACompiledRunMakesSlotsGrow(t *testing.T) {
	r := growing(t, DefaultLimits)
	r.apply(serve("web", from(1, 4), 1))
	before := r.sizes()
	heavy := serve("heavy", from(5, 8), 2)
	heavy.Scheduler = "wrr"
	for i := range heavy.Backends {
		heavy.Backends[i].Weight = uint16(60000 + 7*i) // a cycle of the sum of these
	}
	r.wantHeld(r.apply(serve("web", from(1, 4), 1), heavy))
	if got := r.sizes(); got["slots"] <= before["slots"] || got["backends"] != before["backends"] {
		t.Errorf("sizes %v, before %v", got, before)
	}
	r.wantSYNs(2, 5, 6, 7, 8)
}

// At its limit a map refuses what does not fit, as one of fixed size does.
func TestAMapAtItsLimitRefusesTheRest(t *testing.T) {
	r := growing(t, Limits{Services: minServices, Backends: 2 * minBackends, VIPs: 2 * minVIPs, Slots: 1 << 20})
	r.apply(serve("web", from(1, 2), 1))
	client, server := r.connect(1)
	all := append(many(1500), serve("web", from(1, 2), 1))
	rep := r.d.Apply(r.snapshot(all...))
	if rep.Err != nil || len(rep.Failed) != len(all)-(minServices-1) {
		t.Fatalf("%v, %d failed, want %d", rep.Err, len(rep.Failed), len(all)-(minServices-1))
	}
	r.wantStays(client, 1, server)
	r.wantSYNs(10, 1000)
	for _, err := range rep.Failed {
		if want := "map services is full (1024 elements): raise --services-max, remove services or backends, or wait until removed ones have no connections left"; err.Error() != want {
			t.Fatalf("error %q, want %q", err, want)
		}
	}
	fewer := append(many(500), serve("web", from(1, 2), 1))
	r.d.Apply(r.snapshot(fewer...))
	r.age(grace)
	r.wantHeld(r.apply(fewer...))
	r.wantStays(client, 1, server)
}

// What cannot be built leaves what packets see, and is tried again later.
func TestAGenerationThatCannotBeBuiltChangesNothing(t *testing.T) {
	r := growing(t, DefaultLimits)
	web := serve("web", from(1, 2), 1)
	r.apply(web)
	client, server := r.connect(1)
	inTheWay := filepath.Join(r.pins, "config-next")
	r.do(os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700))
	all := append(many(1500), web)
	if rep := r.d.Apply(r.snapshot(all...)); rep.Err != nil || len(rep.Failed) == 0 {
		t.Fatalf("apply: %+v, want some to fail", rep)
	}
	r.wantStays(client, 1, server)
	r.wantSYNs(1, 2, 1)
	r.do(os.RemoveAll(inTheWay))
	r.d.grower.failed = r.d.grower.failed.Add(-growAgainAfter)
	r.wantHeld(r.apply(all...))
	r.wantStays(client, 1, server)
	r.wantCounts(3)
}

// A process may die at any time while it brings counts to a larger map; programs
// count in both until all devices have the new ones.
func TestCountsSurviveAProcessThatDiesWhileTheyAreCarried(t *testing.T) {
	r := growing(t, DefaultLimits)
	web := serve("web", from(1, 2), 1)
	snap := r.apply(web)
	client, server := r.connect(1)
	prev, err := r.d.loader.Previous()
	r.do(err)
	sizes := needOf(snap).sizes(DefaultLimits)
	setSize(sizes, "backends", 2*sizes["backends"])
	g, err := r.d.loader.NewGeneration(sizes)
	r.do(err)
	tables, err := openTables(&g.LBObjects)
	r.do(err)
	b := &builder{d: r.d, g: g, s: newState(tables, r.d.log, r.d.state.now), prev: prev}
	_, err = b.fill(snap)
	r.do(err)
	r.connect(1) // through programs of before
	old, err := r.d.loader.Publish(g)
	r.do(err)
	r.connect(1) // through them again: at this device the process had no time
	r.do(closeConfig(prev))
	r.do(b.close())
	r.do(tables.Close())
	r.do(old.Close())
	r.do(r.Restart())
	r.connect(1)
	r.apply(web)
	if n := r.sizes()["backends"]; n != sizes["backends"] {
		t.Errorf("map backends has %d elements, want %d", n, sizes["backends"])
	}
	if left, err := filepath.Glob(filepath.Join(r.pins, "load_*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	r.wantStays(client, 1, server)
	r.wantCounts(4)
}

// Without its configuration a process gives backends other ids; flows find them by
// their hashes, and take their counts along.
func TestCountsSurviveALostConfiguration(t *testing.T) {
	for _, limits := range []Limits{{}, DefaultLimits} {
		r := newRig(t, nil)
		if limits != (Limits{}) {
			r = growing(t, limits)
		}
		r.apply(serve("other", from(5, 8), 2), serve("web", from(1, 2), 1))
		client, server := r.connect(1)
		r.connect(1)
		r.do(os.Remove(filepath.Join(r.pins, "config")))
		r.do(r.Restart())
		r.apply(serve("web", from(1, 2), 1))
		r.wantStays(client, 1, server)
		r.wantCounts(2)
	}
}
