// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/services"
)

func TestAnIDRestsForTheGracePeriod(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	r.age(0)
	r.wantID("web", 1, 1)
	r.apply(serve("web", []int{2}, 1))
	r.age(grace / 2)
	r.wantID("web", 1, 1)
	r.apply(serve("web", []int{2, 3}, 1))
	r.wantID("web", 3, 3)
	r.age(grace / 2)
	r.wantID("web", 1, 0)
	r.apply(serve("web", []int{2, 3, 4}, 1))
	r.wantID("web", 4, 1)
	r.wantSYNs(1, 2, 3, 4)
}

// A packet that read the pool's word may still be in the run that it named: for
// the grace period that one stays as it was.
func TestARunRestsForTheGracePeriod(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	r.age(0)
	word := func() services.Pool { return r.d.state.t.services.Pool(1, lb.Cluster) }
	ids := func(base uint32) []uint32 {
		var word uint64 // of the first two slots
		r.do(r.d.gen.Slots.Lookup(base+uint32(bpf.LBLimitsHEADER_WORDS), &word))
		return []uint32{uint32(word), uint32(word >> 32)}
	}
	rest := map[uint32][]uint32{word().Base: ids(word().Base)}
	for n := 3; n < 10; n++ {
		r.apply(serve("web", []int{1, n}, 1))
		r.age(grace / 10)
		if rest[word().Base] != nil {
			t.Errorf("change %d: the run at %d is used again", n, word().Base)
		}
		for base, want := range rest {
			if d := cmp.Diff(want, ids(base)); d != "" {
				t.Errorf("change %d: the run at %d (-want +got):\n%s", n, base, d)
			}
		}
		rest[word().Base] = ids(word().Base)
	}
	r.age(grace)
	r.apply(serve("web", from(1, 2), 1))
	if rest[word().Base] == nil {
		t.Errorf("no run is used again after the grace period: the new one is at %d", word().Base)
	}
}

// While flows of its backend live, an id is nobody else's; with the last of them
// it is free.
func TestAnIDRestsUntilItsLoadIsZero(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	client, server := r.connect(1)
	if server != 1 {
		t.Fatalf("the flow is at %d, want 1", server)
	}
	r.apply(serve("web", []int{2}, 1))
	for n := 3; n < 6; n++ {
		r.age(10 * grace)
		r.apply(serve("web", from(2, n), 1))
		r.wantID("web", n, uint32(n))
		r.wantStays(client, 1, 1)
	}
	r.Advance(20 * time.Minute) // the flow ends, and is reaped
	r.age(0)
	r.wantID("web", 1, 0)
	r.apply(serve("web", from(2, 6), 1))
	r.wantID("web", 6, 1)
}

// A service's index rests too, and with it the bits and the name that its flows
// need.
func TestAServiceRestsUntilItsBackendsAreGone(t *testing.T) {
	r := newRig(t, map[string]uint32{"services": 3})
	web, shop, blog := serve("web", []int{1}, 1), serve("shop", []int{2}, 2), serve("blog", []int{3}, 3)
	r.apply(web, shop)
	client, _ := r.connect(1)
	r.apply(shop)
	r.age(10 * grace)
	r.applyFull(r.snapshot(shop, blog), "services", "blog")
	r.wantStays(client, 1, 1)
	var name bpf.LBServiceName
	r.do(r.d.gen.ServiceInfo.Lookup(web.ID.Hash(), &name))
	r.Advance(20 * time.Minute)
	r.age(grace)
	if err := r.d.gen.ServiceInfo.Lookup(web.ID.Hash(), &name); !errors.Is(err, cilium.ErrKeyNotExist) {
		t.Errorf("the name of a service that is gone: %v", err)
	}
	r.wantHeld(r.apply(shop, blog))
	r.wantSYNs(3, 3)
}

func TestABackendThatComesBackGetsItsID(t *testing.T) {
	r := newRig(t, nil)
	web := serve("web", from(1, 3), 1)
	r.apply(web)
	r.age(0)
	client, server := r.connect(1)
	if server != 1 {
		t.Fatalf("the flow is at %d, want 1", server)
	}
	// with a flow: at any time; without: until it has rested
	r.apply(serve("web", []int{3}, 1))
	r.age(grace / 2)
	r.apply(serve("web", []int{9, 2, 3}, 1))
	r.wantID("web", 2, 2)
	r.age(10 * grace) // it no longer rests
	r.wantID("web", 2, 2)
	r.apply(serve("web", []int{3}, 1))
	r.age(grace)
	r.apply(web)
	r.wantID("web", 1, 1)
	r.wantStays(client, 1, 1)
	r.wantHeld(r.snapshot(web))
	// through a restart, too, and though its service was gone
	r.apply()
	r.do(r.Restart())
	r.apply(serve("shop", from(11, 19), 2), web)
	r.wantID("web", 1, 1)
	r.wantStays(client, 1, 1)
	r.wantHeld(r.snapshot(serve("shop", from(11, 19), 2), web))
}

// plant changes a backend's record in the pinned map, as nobody should.
func (r *rig) plant(id uint32, change func(*bpf.LBBackend)) {
	r.t.Helper()
	m, err := cilium.LoadPinnedMap(filepath.Join(r.pins, "config", "backends"), nil)
	r.do(err)
	var b bpf.LBBackend
	r.do(m.Lookup(id, &b))
	change(&b)
	r.do(errors.Join(m.Put(id, b), m.Close()))
}

func TestARestartTakesNoIDWhoseHashIsWrong(t *testing.T) {
	web := serve("web", from(1, 3), 1)
	for name, change := range map[string]func(*bpf.LBBackend){
		"another hash":    func(b *bpf.LBBackend) { b.Hash ^= 1 << 40 },
		"another address": func(b *bpf.LBBackend) { b.Addr = serverAt(99).Addr().As16() },
		"another port":    func(b *bpf.LBBackend) { b.Port++ },
		"another service": func(b *bpf.LBBackend) { b.Service = 700 },
		"free":            func(b *bpf.LBBackend) { b.Hash = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.apply(web)
			client, server := r.connect(1)
			other, server2 := r.connect(1)
			if server != 1 || server2 != 2 {
				t.Fatalf("the flows are at %d and %d, want 1 and 2", server, server2)
			}
			r.do(r.Restart())
			r.plant(1, change)
			r.apply(web)
			// 1 has a flow that is nobody's: the id is not given away
			r.wantID("web", 1, 4)
			r.wantID("web", 2, 2)
			r.wantID("web", 3, 3)
			r.wantStays(client, 1, 1)
			r.wantStays(other, 1, 2)
			r.wantHeld(r.snapshot(web))
		})
	}
}

// Two records of one backend cannot be: the first counts, the other is free.
func TestARestartTakesABackendOnce(t *testing.T) {
	r := newRig(t, nil)
	web := serve("web", from(1, 2), 1)
	r.apply(web)
	r.do(r.Restart())
	var first bpf.LBBackend
	r.plant(1, func(b *bpf.LBBackend) { first = *b })
	r.plant(3, func(b *bpf.LBBackend) { *b = first })
	r.apply(web)
	r.wantID("web", 1, 1)
	r.wantHeld(r.snapshot(web))
	r.apply(serve("web", from(1, 3), 1))
	r.wantID("web", 3, 3)
	r.wantSYNs(1, 1, 2, 3)
}

// A name that is not its hash's, or none, makes the service unknown: it is
// neither read nor carried over, and comes back as a new one.
func TestARestartTakesNoServiceWhoseNameIsWrong(t *testing.T) {
	r := newRig(t, nil)
	web, shop := serve("web", from(1, 3), 1), serve("shop", from(4, 5), 2)
	r.apply(web, shop)
	client, _ := r.connect(1)
	r.wantSYNs(2, 4)
	r.do(r.Restart())
	prev, err := r.d.loader.Previous()
	r.do(err)
	m := prev.Maps["service_info"]
	var name bpf.LBServiceName
	r.do(m.Lookup(web.ID.Hash(), &name))
	name.Name[0] = 'w' + 1
	r.do(errors.Join(m.Put(web.ID.Hash(), name), prev.Close()))
	r.wantHeld(r.snapshot(shop))
	r.wantHeld(r.apply(web, shop))
	r.wantStays(client, 1, 1)
	r.wantSYNs(1, 1, 2)
	r.wantSYNs(2, 5, 4)
}

func TestWhatADeadProcessLeftHalfBuiltIsRemoved(t *testing.T) {
	r := newRig(t, nil)
	snap := r.apply(serve("web", from(1, 3), 1))
	client, _ := r.connect(1)
	r.do(r.d.Close())
	half := filepath.Join(r.pins, "gen-77")
	r.do(os.Mkdir(half, 0o700))
	m, err := cilium.NewMap(&cilium.MapSpec{Type: cilium.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	r.do(err)
	r.do(errors.Join(m.Pin(filepath.Join(half, "slots")), m.Close(), os.Symlink("gen-77", filepath.Join(r.pins, "config-next"))))
	r.open()
	if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it removed", half, err)
	}
	r.wantHeld(snap)
	if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		t.Errorf("apply: %+v", rep)
	}
	r.wantHeld(snap)
	r.wantStays(client, 1, 1)
	if dirs, err := filepath.Glob(filepath.Join(r.pins, "gen-*")); err != nil || len(dirs) != 1 {
		t.Errorf("configurations %v, %v, want one", dirs, err)
	}
}

// An id whose load is not zero, but which no backend has, is nobody's until it
// is: the count would be the new one's.
func TestAnIDWithAForeignLoadIsNotGiven(t *testing.T) {
	r := newRig(t, nil)
	r.apply()
	r.do(r.d.gen.Load.Put(uint32(2), bpf.LBBackendLoad{Inactive: 1}))
	r.apply(serve("web", from(1, 2), 1))
	r.wantID("web", 1, 1)
	r.wantID("web", 2, 3)
	r.age(grace)
	r.do(r.d.gen.Load.Put(uint32(2), bpf.LBBackendLoad{}))
	r.age(0)
	r.apply(serve("web", from(1, 3), 1))
	r.wantID("web", 3, 2)
}

// A backend that gets another's id begins to count at zero.
func TestCountersDoNotPassToTheNextBackendOfAnID(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", []int{1}, 1))
	client, server := r.connect(1)
	r.Send(conformance.Packet{From: conformance.Client, Src: client, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.ACK, Payload: []byte("x")})
	c, err := r.d.Counters()
	r.do(err)
	id := lb.BackendID{Service: lb.ServiceID{Name: "web", Family: lb.IPv4}, Addr: serverAt(server)}
	if got := c.Backends[id]; got.Connections != 1 || got.InPackets != 3 || got.Active != 1 {
		t.Errorf("counters %+v", got)
	}
	r.apply(serve("web", nil, 1))
	r.Advance(20 * time.Minute)
	r.age(grace)
	r.apply(serve("web", []int{2}, 1))
	r.wantID("web", 2, 1)
	c, err = r.d.Counters()
	r.do(err)
	for b, got := range c.Backends {
		if b.Addr != serverAt(2) || got.Connections+got.InPackets+got.InBytes+got.OutPackets+got.OutBytes+got.Active+got.Inactive != 0 {
			t.Errorf("%s: %+v, want server 2 alone, at zero", b.Addr, got)
		}
	}
}
