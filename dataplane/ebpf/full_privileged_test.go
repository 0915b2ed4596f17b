// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
)

// fullCase fills one map: before fits, more does not, until one of before is
// gone and has rested.
type fullCase struct {
	full         string
	entries      map[string]uint32
	before, more []*lb.Service
	failing      string
}

func fullCases() []fullCase {
	seven := serve("a", []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, 1) // seven words of slots
	return []fullCase{
		{
			full: "services", entries: map[string]uint32{"services": 4},
			before:  []*lb.Service{serve("a", from(1, 2), 1), serve("b", from(3, 4), 2), serve("c", from(5, 6), 3)},
			more:    []*lb.Service{serve("d", from(7, 8), 4)},
			failing: "d",
		},
		{
			full: "vips", entries: map[string]uint32{"vips": 7, "services": 4},
			before:  []*lb.Service{serve("a", from(1, 2), 1), serve("b", from(3, 4), 2, 3)},
			more:    []*lb.Service{serve("c", from(5, 6), 4)},
			failing: "c",
		},
		{
			full: "slots", entries: map[string]uint32{"slots": 16, "services": 4},
			before:  []*lb.Service{seven, serve("b", from(11, 19), 2)},
			more:    []*lb.Service{serve("c", from(21, 29), 3)},
			failing: "c",
		},
		{
			full: "backends", entries: map[string]uint32{"backends": 8, "load": 8, "backend_ids": 8, "services": 4},
			before:  []*lb.Service{serve("a", from(1, 4), 1), serve("b", from(5, 7), 2)},
			more:    []*lb.Service{serve("c", from(8, 8), 3)},
			failing: "c",
		},
	}
}

func TestAServiceThatAMapHasNoRoomForFailsAlone(t *testing.T) {
	for _, c := range fullCases() {
		t.Run(c.full, func(t *testing.T) {
			r := newRig(t, c.entries)
			before := r.apply(c.before...)
			held := r.dump()
			more := r.snapshot(append(c.before, c.more...)...)
			for range 2 { // nothing is lost by failing
				if rep := r.applyFull(more, c.full, c.failing); rep.Added+rep.Changed+rep.Removed != 0 {
					t.Errorf("report %+v, want nothing written", rep)
				}
				r.wantDump(held)
			}
			r.wantHeld(before)
			r.wantSYNs(1, 1, 2)
			// without b there is room, once b has rested
			fewer := append([]*lb.Service{c.before[0]}, append(c.before[2:], c.more...)...)
			snap := r.snapshot(fewer...)
			r.d.Apply(snap)
			r.age(grace)
			r.apply(fewer...)
			r.wantHeld(snap)
			vip := numberOfVIP(c.more[0])
			r.wantSYNs(vip, numberOf(c.more[0].Backends[0].Addr))
		})
	}
}

func numberOfVIP(svc *lb.Service) int { return int(svc.Frontends[0].Addr.Addr().As4()[3]) }

// A full map among many new services refuses those that do not fit, in the order
// of their names, and takes smaller ones that come later.
func TestTheFirstApplyTakesWhatFits(t *testing.T) {
	for full, entries := range map[string]map[string]uint32{
		"backends": {"backends": 8, "load": 8, "backend_ids": 8},
		"vips":     {"vips": 7},
		"slots":    {"slots": 8},
	} {
		t.Run(full, func(t *testing.T) {
			r := newRig(t, entries)
			a, b, c := serve("a", from(1, 4), 1), serve("b", from(5, 8), 2, 4, 5), serve("c", from(9, 11), 3)
			if full == "slots" {
				c = serve("c", from(9, 10), 3)
			}
			rep := r.applyFull(r.snapshot(a, b, c), full, "b")
			if rep.Added != 2 {
				t.Errorf("%d added, want 2", rep.Added)
			}
			r.wantHeld(r.snapshot(a, c))
			r.wantSYNs(1, 1, 2)
			r.wantSYNs(2, 0)
			r.wantSYNs(3, 9, 10)
		})
	}
}

func TestAChangeThatAMapHasNoRoomForLeavesTheServiceAsItWas(t *testing.T) {
	for _, c := range []struct {
		full    string
		entries map[string]uint32
		change  *lb.Service
	}{
		{"backends", map[string]uint32{"backends": 8, "load": 8, "backend_ids": 8}, serve("a", from(1, 5), 1)},
		{"slots", map[string]uint32{"slots": 9}, serve("a", []int{4, 3, 2, 1}, 1)}, // the old run stays till the new one is there
		{"vips", map[string]uint32{"vips": 4}, serve("a", from(1, 4), 1, 3)},
	} {
		t.Run(c.full, func(t *testing.T) {
			r := newRig(t, c.entries)
			a, b := serve("a", from(1, 4), 1), serve("b", from(11, 13), 2)
			before := r.apply(a, b)
			r.wantSYNs(1, 1, 2)
			held := r.dump()
			r.applyFull(r.snapshot(c.change, b), c.full, "a")
			r.wantDump(held)
			r.wantHeld(before)
			r.wantSYNs(1, 3, 4, 1)
			r.d.Apply(r.snapshot(c.change))
			r.age(grace)
			r.wantHeld(r.apply(c.change))
		})
	}
}

// What the kernel refuses half-way is taken back: the room of two maps is not
// counted beforehand. The others have just what is needed, so that nothing may
// be lost.
func TestAWriteThatTheKernelRefusesIsTakenBack(t *testing.T) {
	for full, room := range map[string]uint32{"service_info": 2} {
		t.Run(full, func(t *testing.T) {
			entries := map[string]uint32{"services": 4, "slots": 10, "backends": 7, "load": 7, "backend_ids": 7}
			entries[full] = room
			r := newRig(t, entries)
			a, b, c := serve("a", from(1, 2), 1), serve("b", from(3, 4), 2), serve("c", from(5, 6), 3)
			before := r.apply(a, b)
			held := r.dump()
			for range 3 {
				rep := r.d.Apply(r.snapshot(a, b, c))
				if err := rep.Failed[c.ID]; rep.Err != nil || len(rep.Failed) != 1 || !errors.Is(err, unix.E2BIG) {
					t.Fatalf("apply: error %v, failed %v, want c to fail with E2BIG", rep.Err, rep.Failed)
				}
				r.wantDump(held)
			}
			r.wantHeld(before)
			r.wantSYNs(3, 0)
			r.d.Apply(r.snapshot(a, c))
			r.age(grace)
			r.wantHeld(r.apply(a, c))
			r.wantSYNs(3, 5, 6)
		})
	}
}

// strangers fills vips with keys that the state does not know of.
func (r *rig) strangers(n int) (remove func()) {
	r.t.Helper()
	key := func(i int) bpf.LBVipKey {
		return bpf.LBVipKey{Addr: [16]byte{0xfd, 15: byte(i)}, Port: 1, Proto: 6}
	}
	for i := range n {
		r.do(r.d.gen.Vips.Put(key(i), bpf.LBVip{}))
	}
	return func() {
		for i := range n {
			r.do(r.d.gen.Vips.Delete(key(i)))
		}
	}
}

// A service that takes frontends of others, and is refused one of its own, gives
// them back.
func TestFrontendsThatWereTakenAreGivenBackWhenOneIsRefused(t *testing.T) {
	for _, c := range []struct {
		name     string
		strange  int // entries of vips that take the room
		takesAll bool
	}{{"its mark", 9, false}, {"the frontend itself", 8, false}, {"after all of another's", 9, true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, map[string]uint32{"vips": 15})
			a, b, other := serve("a", from(1, 2), 1, 2), serve("b", from(3, 4), 3), serve("other", from(5, 6))
			r.apply(a, b, other) // six entries
			remove := r.strangers(c.strange)
			less, more := serve("a", from(1, 2), 1), serve("b", from(3, 4), 3, 2, 9)
			if c.takesAll {
				less, more = serve("a", from(1, 2)), serve("b", from(3, 4), 3, 2, 1, 9)
			}
			rep := r.d.Apply(r.snapshot(less, more, other))
			if rep.Err != nil || len(rep.Failed) != 1 || rep.Failed[b.ID] == nil {
				t.Fatalf("apply: error %v, failed %v, want b to fail", rep.Err, rep.Failed)
			}
			// a gave them up, b failed: it keeps what it had, and takes none
			r.wantHeld(r.snapshot(less, b, other))
			r.wantSYNs(3, 3, 4)
			r.wantSYNs(2, 0)
			if err := r.d.gen.Vips.Lookup(bpf.LBVipKey{Addr: vipAt(9).Addr().As16()}, new(bpf.LBVip)); !errors.Is(err, cilium.ErrKeyNotExist) {
				t.Errorf("VIP 9 is marked though nobody has it: %v", err)
			}
			remove()
			r.wantHeld(r.apply(less, more, other))
			r.wantSYNs(2, 3, 4)
			r.wantSYNs(9, 3)
		})
	}
}

// A new service that is refused its frontend leaves nobody let in: not when it comes
// again with other networks.
func TestSourcesOfARefusedServiceAreNotLetIn(t *testing.T) {
	r := newRig(t, map[string]uint32{"vips": 15})
	other := serve("other", from(5, 6), 1)
	r.apply(other)
	remove := r.strangers(13)
	restricted := func(network string) *lb.Service {
		svc := serve("web", from(1, 2), 2)
		svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix(network)}
		svc.Frontends[0].Restricted = true
		return svc
	}
	web := restricted("192.0.2.0/24")
	if rep := r.d.Apply(r.snapshot(other, web)); rep.Err != nil || rep.Failed[web.ID] == nil {
		t.Fatalf("apply: error %v, failed %v, want web to fail", rep.Err, rep.Failed)
	}
	remove()
	web = restricted("198.51.100.0/24")
	r.apply(other, web)
	held, err := r.d.Read()
	r.do(err)
	if got := held.Service(web.ID).SourceRanges; !slices.Equal(got, web.SourceRanges) {
		t.Errorf("let in are %v, want %v", got, web.SourceRanges)
	}
}

// More clients than affinity has room for are all served: the oldest are
// forgotten, and picked for afresh. Connections that live stay where they are.
func TestMoreClientsThanAffinityHasRoomFor(t *testing.T) {
	const clients = 5000
	r := newRig(t, nil)
	web := serve("web", from(1, 4), 1)
	web.Affinity = lb.Affinity{Timeout: time.Hour, Prefix: 32}
	r.apply(web)
	client := func(n int, port uint16) netip.AddrPort { return numbered(52, n, port) }
	syn := func(from netip.AddrPort) int {
		out := r.Send(conformance.Packet{From: conformance.Client, Src: from, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.SYN})
		if out.Verdict != lb.Forward {
			t.Fatalf("client %v: %+v", from, out)
		}
		return numberOf(out.Dst)
	}
	first := syn(client(1, 1000))
	r.wantStays(client(1, 1000), 1, first)
	servers := make([]int, clients)
	for n := 2; n < clients; n++ {
		servers[n] = syn(client(n, 1000))
		if again := syn(client(n, 1001)); again != servers[n] {
			t.Fatalf("client %d goes to server %d and then to %d", n, servers[n], again)
		}
	}
	entries := 0
	r.do(r.d.withReader(func(rd *reader) error {
		return rd.Clients(func(dataplane.Client) error {
			entries++
			return nil
		})
	}))
	if most := int(r.entries["affinity"]); entries == 0 || entries > most {
		t.Errorf("%d clients are known, want at most %d", entries, most)
	}
	forgotten := 0
	for n := 2; n < 400; n++ { // three of four that are picked for afresh go elsewhere
		if syn(client(n, 1002)) != servers[n] {
			forgotten++
		}
	}
	if forgotten == 0 {
		t.Error("the oldest are all known still; the test shows nothing")
	}
	r.wantStays(client(1, 1000), 1, first)
	r.wantNoDrops()
}
