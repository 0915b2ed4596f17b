// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/maptest"
)

// recount recounts now.
func (r *rig) recount() dataplane.Recount {
	r.t.Helper()
	got, err := r.d.audit(r.t.Context())
	r.do(err)
	return got
}

// wantRecount compares a recount, but for how long it took.
func (r *rig) wantRecount(want dataplane.Recount) {
	r.t.Helper()
	got := r.recount()
	got.Took = 0
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b lb.BackendID) bool { return a == b })); d != "" {
		r.t.Errorf("recount (-want +got):\n%s", d)
	}
}

// miscount adds to a backend's load what the table knows nothing of.
func (r *rig) miscount(id uint32, active, inactive uint32) {
	r.t.Helper()
	var l bpf.LBBackendLoad
	r.do(r.d.gen.Load.Lookup(id, &l))
	l.Active += active
	l.Inactive += inactive
	r.do(r.d.gen.Load.Put(id, l))
}

func serverID(service string, server int) lb.BackendID {
	return lb.BackendID{Service: lb.ServiceID{Name: service, Family: lb.IPv4}, Addr: serverAt(server)}
}

// TestTheAuditCountsAsTheProgramsDo plants what only races and other processes
// leave: of these entries a packet would find some, but none is counted.
func TestTheAuditCountsAsTheProgramsDo(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	for range 3 {
		r.connect(1)
	}
	r.wantRecount(dataplane.Recount{Compared: 2, Flows: 3})

	plant := func(n int, state bpf.LBFlowState, flags bpf.LBFlowFlags, id uint32, hash uint64) {
		k := bpf.LBFlowKey{
			Saddr: numbered(99, n, 0).Addr().As16(), Sport: 1, Daddr: vipAt(1).Addr().As16(), Dport: 80,
			Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E1),
		}
		r.do(r.d.gen.Flows.Put(k, bpf.LBFlow{State: uint8(state), Flags: uint8(flags), Backend: id, BackendHash: hash}))
	}
	one := serverID("web", 1).Hash()
	plant(1, bpf.LBFlowStateSTATE_DEAD, 0, 1, one)
	plant(2, bpf.LBFlowStateSTATE_CLAIMED, 0, 1, one)
	plant(3, bpf.LBFlowStateSTATE_ESTABLISHED, bpf.LBFlowFlagsFLOW_DIRECT, 0, 0)
	plant(4, bpf.LBFlowStateSTATE_ESTABLISHED, 0, 1<<31, one) // nobody's
	r.wantRecount(dataplane.Recount{Compared: 2, Flows: 3})

	// a hint that is wrong: until somebody mends it, the count stands where it says
	plant(5, bpf.LBFlowStateSTATE_FIN_WAIT, 0, 2, one)
	r.miscount(2, 0, 1)
	plant(6, bpf.LBFlowStateSTATE_ESTABLISHED, 0, 500, one)
	r.miscount(500, 1, 0)
	r.wantRecount(dataplane.Recount{Compared: 3, Flows: 5})
}

func TestTheAuditFindsADifferenceAndLeavesIt(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	for range 4 {
		r.connect(1)
	}
	want := dataplane.Recount{Compared: 2, Flows: 4}
	r.wantRecount(want)
	r.miscount(1, 3, 0)
	r.miscount(2, 0xffffffff, 0xffffffff) // one less than none is inactive
	r.miscount(700, 0, 1)
	want.Compared, want.Difference = 3, 6
	want.Wrong = []dataplane.Miscount{
		{Backend: serverID("web", 1), ID: 1, Counted: load(5, 0), Found: load(2, 0), Difference: 3},
		{Backend: serverID("web", 2), ID: 2, Counted: load(1, -1), Found: load(2, 0), Difference: 2},
		{ID: 700, Counted: load(0, 1), Difference: 1},
	}
	r.wantRecount(want)
	r.wantRecount(want) // nobody mended it
	r.release()
	pins, err := OpenPins(r.pins)
	r.do(err)
	got, err := pins.Recount(t.Context())
	r.do(errors.Join(err, pins.Close()))
	got.Took = 0
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b lb.BackendID) bool { return a == b })); d != "" {
		t.Errorf("with the process gone (-want +got):\n%s", d)
	}
	r.open()
}

// TestABackendWhoseFlowsComeAndGoIsSkipped recounts slowly while one of two
// services gets connections.
func TestABackendWhoseFlowsComeAndGoIsSkipped(t *testing.T) {
	r := newRig(t, map[string]uint32{"flows": 1 << 16, "half_open": 1 << 14})
	r.apply(serve("web", []int{1}, 1), serve("shop", []int{2}, 2))
	w := newWire(r)
	open := func(vip int) error {
		return w.fromClient(&talk{protocol: lb.TCP, client: endOf(r.newClient()), vip: endOf(vipAt(vip))}, packet.SYN)
	}
	for range recountPiece {
		r.do(errors.Join(open(1), open(2)))
	}
	busy := func() (got dataplane.Recount) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		var sender errgroup.Group
		sender.Go(func() error {
			for ctx.Err() == nil {
				if err := open(1); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		r.do(r.d.withReader(func(rd *reader) (err error) {
			got, err = rd.recount(t.Context(), 50*time.Millisecond)
			return err
		}))
		stop()
		r.do(sender.Wait())
		return got
	}
	if got := busy(); got.Compared != 1 || got.Skipped != 1 || got.Difference != 0 || len(got.Wrong) != 0 {
		t.Errorf("%+v; want the quiet backend compared, the busy one skipped", got)
	}
	r.miscount(r.idOf("web", 1), 10_000, 0)
	if got := busy(); got.Skipped != 1 || len(got.Wrong) != 1 || !got.Wrong[0].AtLeast || got.Wrong[0].Backend != serverID("web", 1) ||
		got.Difference < 5_000 || got.Difference > 10_000 {
		t.Errorf("%+v; want at least half of the 10,000 that are too many to be due to change", got)
	}
	r.miscount(r.idOf("web", 1), 1<<32-10_000, 0)
	r.wantExact("at rest")
}

func TestTheAuditRunsOnItsOwn(t *testing.T) {
	r := newRig(t, nil)
	audit := &auditor{d: r.d}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- audit.Run(ctx) }()
	r.apply(serve("web", from(1, 2), 1)) // not before there is something to audit
	<-audit.Ready()
	for {
		r.d.mu.Lock()
		got, at := r.d.audited, r.d.auditedAt
		r.d.mu.Unlock()
		if !at.IsZero() {
			if got.Compared != 2 || got.Took <= 0 {
				t.Errorf("%+v, want two backends compared", got)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestARecountEndsWithItsContext(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	r.miscount(1, 1, 0)
	ctx, stop := context.WithTimeout(t.Context(), confirmAfter/4)
	defer stop()
	if _, err := r.d.audit(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// BenchmarkCountFlows is what a recount costs, but for reading the counters of
// backends: a walk over the table, where each flow has two entries.
func BenchmarkCountFlows(b *testing.B) {
	for _, n := range []int{100_000, 250_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := &reader{flows: flows.Table{Map: maptest.New(b, "flows", uint32(2*n))}, load: maptest.New(b, "load", uint32(bpf.LBLimitsMAX_BACKENDS))}
			keys, values := make([]bpf.LBFlowKey, 0, 2*n), make([]bpf.LBFlow, 2*n)
			for i := range n {
				k := bpf.LBFlowKey{Sport: uint16(i), Dport: uint16(i >> 16), Position: uint8(bpf.LBPositionPOSITION_E1)}
				reply := k
				reply.Position = uint8(bpf.LBPositionPOSITION_E4)
				keys = append(keys, k, reply)
				values[2*i] = bpf.LBFlow{State: uint8(bpf.LBFlowStateSTATE_ESTABLISHED), Backend: uint32(1 + i%100)}
				values[2*i+1] = bpf.LBFlow{State: uint8(bpf.LBFlowStateSTATE_REPLY)}
			}
			if _, err := r.flows.Map.BatchUpdate(keys, values, nil); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				found, err := r.countFlows(b.Context(), 0)
				if err != nil || found[1].Active != int64(n/100) {
					b.Fatalf("error %v, %+v", err, found[1])
				}
			}
		})
	}
}
