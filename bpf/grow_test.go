// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

const (
	stateMoved   = uint8(bpf.LBFlowStateSTATE_MOVED)
	statePending = uint8(bpf.LBFlowStateSTATE_PENDING)
	stateDead    = uint8(bpf.LBFlowStateSTATE_DEAD)
	established  = uint8(bpf.LBFlowStateSTATE_ESTABLISHED)
)

// growing is a world whose flow table has a second one.
type growing struct{ *flood }

func newGrowing(t *testing.T, f family) *growing {
	return &growing{newFloodWith(t, map[string]any{"growing": true}, f, lb.TCP)}
}

func (w *growing) phase(p bpf.LBGrowthPhase) {
	w.t.Helper()
	w.do(w.Growth.Put(uint32(0), bpf.LBGrowthState{Phase: uint32(p)}))
}

// move lays all keys of the first table before the program that moves them.
func (w *growing) move() error {
	var k bpf.LBFlowKey
	var v bpf.LBFlow
	n := uint32(0)
	for it := w.Flows.Iterate(); it.Next(&k, &v); n++ {
		if err := w.PieceKeys.Put(n, k); err != nil {
			return err
		}
	}
	if err := w.PieceEntries.Set(n); err != nil {
		return err
	}
	_, err := w.MovePiece.Run(&ebpf.RunOptions{})
	return err
}

// key is that of client n's forward entry.
func (w *growing) key(n int) bpf.LBFlowKey {
	c := w.client(n)
	return bpf.LBFlowKey{Saddr: c.Addr().As16(), Sport: c.Port(), Daddr: w.f.vip.Addr().As16(), Dport: w.f.vip.Port(), Proto: 6, Position: 1}
}

// at returns what a table has of client n; false: nothing.
func (w *growing) at(m *ebpf.Map, n int) (f bpf.LBFlow, ok bool) {
	w.t.Helper()
	err := m.Lookup(w.key(n), &f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return f, false
	}
	w.do(err)
	return f, true
}

func (w *growing) wantState(what string, m *ebpf.Map, n int, state uint8) {
	w.t.Helper()
	if f, ok := w.at(m, n); !ok || f.State != state {
		w.t.Errorf("%s: client %d has state %d, %v in %s, want %d", what, n, f.State, ok, m, state)
	}
}

// exact compares the counters with the live entries of both tables.
func (w *growing) exact(when string) {
	w.t.Helper()
	forward, half := 0, 0
	seen := make(map[bpf.LBFlowKey]bool)
	for _, m := range []*ebpf.Map{w.Flows, w.FlowsNext} {
		var k bpf.LBFlowKey
		var v bpf.LBFlow
		for it := m.Iterate(); it.Next(&k, &v); {
			if v.State >= stateDead {
				if v.State&statePending != 0 {
					w.t.Errorf("%s: a copy of %v is pending", when, k)
				}
				continue
			}
			if seen[k] {
				w.t.Errorf("%s: %v is live in both tables", when, k)
			}
			seen[k] = true
			if k.Position == 1 {
				forward++
				if v.Flags&uint8(bpf.LBFlowFlagsFLOW_HALF_OPEN) != 0 {
					half++
				}
			}
		}
	}
	var r bpf.LBHalfOpenRing
	w.do(w.HalfOpenEnds.Lookup(uint32(0), &r))
	if l := w.load(1); int(l.Active+l.Inactive) != forward || int(r.Count) != half {
		w.t.Errorf("%s: load %+v, %d half-open; in the tables %d flows, %d half-open", when, l, r.Count, forward, half)
	}
}

// Where new flows go in each phase, and where they are found.
func TestNewFlowsGoWhereThePhaseSays(t *testing.T) {
	for _, f := range families() {
		w := newGrowing(t, f)
		w.open(1)
		w.wantState("OLD", w.Flows, 1, established)
		w.phase(bpf.LBGrowthPhaseGROWTH_BOTH)
		w.open(2)
		w.wantState("BOTH", w.Flows, 2, stateMoved)
		w.wantState("BOTH", w.FlowsNext, 2, established)
		w.phase(bpf.LBGrowthPhaseGROWTH_OLD) // a program that began before
		if !w.from(2, packet.ACK) || !w.from(2, packet.SYN) {
			t.Errorf("client 2 is not known in phase OLD: %v", w.drops())
		}
		w.phase(bpf.LBGrowthPhaseGROWTH_NEXT)
		w.open(3)
		if _, ok := w.at(w.Flows, 3); ok {
			t.Error("a new flow is in the first table in phase NEXT")
		}
		w.wantState("NEXT", w.FlowsNext, 3, established)
		for n := 1; n <= 3; n++ {
			if !w.from(n, packet.ACK) {
				t.Errorf("client %d is not known", n)
			}
		}
		w.exact("at the end")
	}
}

// A flow is moved with all that it is, counts once, and goes on in both
// directions; its next of the same tuple too.
func TestAMovedFlowGoesOn(t *testing.T) {
	for _, f := range families() {
		w := newGrowing(t, f)
		w.open(1)
		if !w.from(2, packet.SYN) { // half-open
			t.Fatal("no flow")
		}
		before, _ := w.at(w.Flows, 1)
		w.phase(bpf.LBGrowthPhaseGROWTH_NEXT)
		w.do(w.move())
		w.exact("moved")
		w.wantState("moved", w.Flows, 1, stateMoved)
		after, _ := w.at(w.FlowsNext, 1)
		before.Flags |= uint8(bpf.LBFlowFlagsFLOW_MOVED)
		if after != before {
			t.Errorf("moved: %+v, was %+v", after, before)
		}
		if !w.from(1, packet.ACK) || !w.from(2, packet.ACK) {
			t.Errorf("clients are not known: %v", w.drops())
		}
		w.reply(1, packet.ACK)
		if got, _ := w.at(w.FlowsNext, 1); got.Packets != after.Packets+1 {
			t.Errorf("%d packets, want one more than %d", got.Packets, after.Packets)
		}
		w.from(1, packet.RST)
		w.exact("reset")
		w.open(1) // of the same tuple
		w.exact("again")
		w.do(w.move())
		w.exact("moved again")
	}
}

// Room in the second table that is kept for what is moved is not for new flows, until
// the time is over.
func TestRoomIsKeptForWhatIsMoved(t *testing.T) {
	for _, f := range families() {
		w := newGrowing(t, f)
		w.open(1)
		w.open(2)
		w.from(2, packet.RST)
		reserved := func(until uint64) {
			w.do(w.Growth.Put(uint32(0), bpf.LBGrowthState{Phase: uint32(bpf.LBGrowthPhaseGROWTH_NEXT), ReservedUntil: until}))
		}
		reserved(math.MaxUint64)
		if w.from(3, packet.SYN) {
			t.Error("a new flow takes the room")
		}
		w.do(w.move())
		w.wantState("moved", w.FlowsNext, 1, established)
		w.exact("reserved")
		reserved(1) // long ago
		w.open(3)
		w.wantState("the time is over", w.FlowsNext, 3, established)
		w.from(3, packet.RST)
		reserved(math.MaxUint64)
		w.open(3) // in the place that it has
		w.exact("again")
	}
}

// A packet that comes between the two steps of a move ends it.
func TestAPacketEndsTheMoveOfItsFlow(t *testing.T) {
	w := newGrowing(t, families()[0])
	w.open(1)
	w.phase(bpf.LBGrowthPhaseGROWTH_NEXT)
	f, _ := w.at(w.Flows, 1)
	left, copied := f, f
	left.State, copied.State = stateMoved, f.State|statePending
	w.do(w.Flows.Put(w.key(1), left))
	w.do(w.FlowsNext.Put(w.key(1), copied))
	if !w.from(1, packet.ACK) {
		t.Fatalf("the client is not known: %v", w.drops())
	}
	w.wantState("met by a packet", w.FlowsNext, 1, established)
	w.exact("met by a packet")
}

// A copy of a flow that ended before it was moved is nobody's.
func TestACopyThatWasNotMovedIsNoFlow(t *testing.T) {
	w := newGrowing(t, families()[0])
	w.open(1)
	w.phase(bpf.LBGrowthPhaseGROWTH_NEXT)
	f, _ := w.at(w.Flows, 1)
	copied := f
	copied.State |= statePending
	w.do(w.FlowsNext.Put(w.key(1), copied))
	if !w.from(1, packet.ACK) { // the first table has it
		t.Fatalf("the client is not known: %v", w.drops())
	}
	w.wantState("beside the flow", w.FlowsNext, 1, established|statePending)
	w.from(1, packet.RST)
	if !w.from(1, packet.SYN) { // ends it, and begins another
		t.Fatalf("no new flow: %v", w.drops())
	}
	w.wantState("after the flow", w.Flows, 1, stateDead)
	w.wantState("after the flow", w.FlowsNext, 1, uint8(bpf.LBFlowStateSTATE_SYN_RECV))
	w.exact("after the flow")
	w.do(w.move())
	w.exact("moved")
}

// Flows are moved while their packets come, on another CPU, which open, close and
// reset them.
func TestMovesAmidPacketsOfTheSameFlows(t *testing.T) {
	w := newGrowing(t, families()[0])
	const clients, rounds = 30, 150
	for round := range rounds {
		w.phase(bpf.LBGrowthPhaseGROWTH_OLD)
		w.empty()
		for n := range clients {
			w.from(n, packet.SYN)
			if n%3 > 0 {
				w.from(n, packet.ACK)
			}
		}
		w.phase(bpf.LBGrowthPhaseGROWTH_NEXT)
		var both errgroup.Group
		both.Go(w.move)
		both.Go(func() error {
			rng := rand.New(rand.NewPCG(7, uint64(round)))
			for range 4 * clients {
				flags := []packet.Flag{packet.SYN, packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST}[rng.IntN(5)]
				n := rng.IntN(clients)
				if rng.IntN(3) == 0 {
					w.reply(n, flags|packet.ACK)
				} else {
					w.from(n, flags)
				}
			}
			return nil
		})
		w.do(both.Wait())
		w.do(w.move())
		w.exact("at the end of a round")
		var k bpf.LBFlowKey
		var v bpf.LBFlow
		for it := w.Flows.Iterate(); it.Next(&k, &v); {
			if v.State != stateMoved {
				t.Errorf("round %d: state %d is left in the first table", round, v.State)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// empty deletes everything, as if nothing had been.
func (w *growing) empty() {
	w.t.Helper()
	for _, m := range []*ebpf.Map{w.Flows, w.FlowsNext} {
		var k bpf.LBFlowKey
		var v bpf.LBFlow
		var keys []bpf.LBFlowKey
		for it := m.Iterate(); it.Next(&k, &v); {
			keys = append(keys, k)
		}
		for _, k := range keys {
			w.do(m.Delete(k))
		}
	}
	w.do(w.Load.Put(uint32(1), bpf.LBBackendLoad{}))
	w.do(w.HalfOpenEnds.Put(uint32(0), bpf.LBHalfOpenRing{}))
}
