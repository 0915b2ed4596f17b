// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

// lasting are flows of each kind, which are to go on.
type lasting struct {
	*rig
	wire  *wire
	talks []talk
}

func newLasting(t *testing.T) *lasting {
	r := newRig(t, map[string]uint32{"flows": 1 << 10, "half_open": 1 << 8})
	r.MasqueradeWith(lb.IPv4, numbered(19, stormNode, 0).Addr())
	l := &lasting{rig: r}
	l.apply()
	l.wire = newWire(r)
	syn, ack := packet.SYN, packet.ACK
	for i := range 90 {
		n := []int{1, 3, 4}[i%3]
		resourced, client := i%4 == 0 && n == 1, clientAt(i)
		if resourced {
			client = clientAt(30000 + i) // another address: the port it is given may be another flow's own
		}
		l.talks = append(l.talks, talk{protocol: lb.TCP, client: endOf(client), vip: endOf(vipAt(n)), masqueraded: n == 3})
		tk := &l.talks[i]
		if n == 4 {
			tk.protocol = lb.UDP
		}
		if resourced { // the client's port is in use at the server
			tk.server = endOf(serverAt(1))
			r.do(l.wire.direct(tk, syn))
		}
		for _, flags := range []packet.Flag{syn, ack, ack} {
			r.do(l.wire.fromClient(tk, flags))
			r.do(l.wire.fromServer(tk, syn|ack))
		}
		if !tk.masqueraded && resourced != (tk.seen.port != tk.client.port) {
			t.Fatalf("flow %d has port %d at its server, the client's is %d", i, tk.seen.port, tk.client.port)
		}
	}
	return l
}

// apply is what a process does first.
func (l *lasting) apply() {
	l.t.Helper()
	l.rig.apply(stormService(1, serve("", from(1, 1)).Backends), stormService(3, serve("", from(2, 4)).Backends), stormService(4, serve("", from(5, 6)).Backends))
}

// wantOn wants all flows to go where they went, and the answers to come back, and
// the counts to be right.
func (l *lasting) wantOn(when string) {
	l.t.Helper()
	l.wire.take(l.rig)
	for i := range l.talks {
		had, now := l.talks[i], l.talks[i]
		now.server = end{} // nothing says that it arrived
		l.do(l.wire.fromClient(&now, packet.ACK))
		if now != had {
			l.t.Errorf("%s: flow %d went from %v to %v, was from %v to %v", when, i, now.seen, now.server, had.seen, had.server)
		}
		to, ok, err := had.seen, true, error(nil)
		if had.masqueraded {
			_, to, ok, err = l.wire.run(l.wire.ingress, had.protocol, had.server, had.seen, packet.ACK)
			l.do(err)
		}
		src, dst, passed, err := l.wire.run(l.wire.egress, had.protocol, had.server, to, packet.ACK)
		l.do(err)
		if !ok || !passed || src != had.vip || dst != had.client {
			l.t.Errorf("%s: the answer of flow %d came from %v to %v, want from %v to %v", when, i, src, dst, had.vip, had.client)
		}
	}
	l.wantExact(when)
	// a new one, too, and its end
	tk := talk{protocol: lb.TCP, client: endOf(l.newClient()), vip: endOf(vipAt(1))}
	for _, flags := range []packet.Flag{packet.SYN, packet.ACK, packet.RST} {
		l.do(l.wire.fromClient(&tk, flags))
	}
	if tk.server != endOf(serverAt(1)) {
		l.t.Errorf("%s: a new flow went to %v", when, tk.server)
	}
	l.wantExact(when)
}

// next starts another process, as if this one had died just now.
func (l *lasting) next() {
	l.t.Helper()
	l.do(l.Restart())
	l.apply()
}

func (l *lasting) wantSize(entries uint32) {
	l.t.Helper()
	got, err := l.d.Status()
	l.do(err)
	if got.Limit != entries || l.d.gen.Flows.MaxEntries() != entries || l.d.gen.TwoTables() {
		l.t.Errorf("the flow table has room for %d, want %d, and one table", got.Limit, entries)
	}
	if _, err := os.Stat(filepath.Join(l.pins, "flows_next")); !errors.Is(err, os.ErrNotExist) {
		l.t.Errorf("a second table is pinned: %v", err)
	}
	p, err := cilium.LoadPinnedMap(filepath.Join(l.pins, "flows"), nil)
	l.do(err)
	defer p.Close()
	if p.MaxEntries() != entries {
		l.t.Errorf("what is pinned has room for %d, want %d", p.MaxEntries(), entries)
	}
}

// A process may die at any step of a growth: flows of all kinds go on, new ones
// begin, counts are exact, and the next process ends what was begun.
func TestAProcessThatDiesWhileTheFlowTableGrows(t *testing.T) {
	for _, step := range loader.GrowthSteps {
		t.Run(string(step), func(t *testing.T) {
			l := newLasting(t)
			l.growUntil(step)
			l.wantOn("at the step")
			l.next()
			l.wantOn("with the next process")
			if step != loader.GrowthRenamed {
				l.grow()
			}
			l.wantOn("when it has grown")
			l.wantSize(1 << 11)
		})
	}
	t.Run("with a part of the flows moved", func(t *testing.T) {
		l := newLasting(t)
		for part := 1; part <= 2; part++ {
			l.growUntil(loader.GrowthNext)
			l.movePart(10 * part)
			l.wantOn("at the step")
			l.next()
			l.wantOn("with the next process")
			l.movePart(60)
			l.wantOn("with another part moved")
			l.grow()
			l.wantOn("when it has grown")
			l.wantSize(1 << (10 + part))
		}
	})
}

// movePart moves so many of the entries that are met first.
func (r *rig) movePart(n int) {
	r.t.Helper()
	m, err := newMover(r.d.loader)
	r.do(err)
	m.keys = m.keys[:n]
	if _, err := m.walk(func() error { return errInterrupted }); !errors.Is(err, errInterrupted) {
		r.t.Errorf("moved: %v", err)
	}
	r.do(m.Close())
}

// growStorm is a storm of many senders, whose flow table grows.
type growStorm struct {
	*storm
	// pausing is held by senders while a packet is on its way.
	pausing sync.RWMutex
	wires   []*wire
}

// switched gives the senders the programs that are attached now, once no packet
// is on its way through those of before.
func (g *growStorm) switched(s loader.GrowthStep) error {
	if s == loader.GrowthKnown || s == loader.GrowthSwapped {
		g.quietly(func() {
			for _, w := range g.wires {
				w.take(g.rig)
			}
		})
	}
	return g.interrupt(s)
}

func (g *growStorm) quietly(f func()) {
	g.pausing.Lock()
	defer g.pausing.Unlock()
	f()
}

func (g *growStorm) send(ctx context.Context, w *wire, rng *rand.Rand, talks []talk) error {
	for ctx.Err() == nil {
		g.pausing.RLock()
		err := w.step(rng, &talks[rng.IntN(len(talks))])
		g.pausing.RUnlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// TestCountsAreExactWhileTheFlowTableGrows has several senders to each CPU, of
// packets of the same tuples, while the flow table grows twice, with servers that
// come and go.
func TestCountsAreExactWhileTheFlowTableGrows(t *testing.T) {
	for _, tuples := range []int{12, 1500} {
		t.Run(fmt.Sprint(tuples), func(t *testing.T) { growInStorm(t, tuples) })
	}
}

func growInStorm(t *testing.T, tuples int) {
	seed := seedOf(t)
	g := &growStorm{storm: newStormIn(t, seed, tuples, map[string]uint32{"flows": 1 << 13, "half_open": 1 << 10, "direct": 1 << 12})}
	g.onStep = g.switched
	ctx, stop := context.WithCancel(t.Context())
	var all errgroup.Group
	for n := range 2 * runtime.NumCPU() {
		w, rng := newWire(g.rig), rand.New(rand.NewPCG(seed, uint64(n+1)))
		g.wires = append(g.wires, w)
		talks := slices.Clone(g.talks)
		all.Go(func() error { return g.send(ctx, w, rng, talks) })
	}
	check := func(when string) { g.quietly(func() { g.wantExact(when) }) }
	churn := func() {
		for range 5 {
			g.change()
			time.Sleep(10 * time.Millisecond)
		}
	}
	for n := 1; n <= 2 && !t.Failed(); n++ {
		churn()
		g.do(g.d.sweep(ctx, nil))
		check("before it grows")
		for _, step := range []loader.GrowthStep{loader.GrowthKnown, loader.GrowthBoth, loader.GrowthNext} {
			g.growUntil(step)
			churn()
			check(string(step))
		}
		g.movePart(200)
		churn()
		check("with a part moved")
		g.move()
		churn()
		check("with all moved")
		g.grow()
		check("when it has grown")
	}
	stop()
	g.do(all.Wait())
	g.opened += g.connections() - g.since
	t.Logf("%d flows", g.opened)
	g.wantExact("at the end")
	g.Advance(time.Hour)
	g.Advance(2 * time.Second)
	if left, _ := g.tally(); len(left) > 0 {
		t.Errorf("an hour later there are still %v", left)
	}
}

// What finds no room in the second table stays in the first, and works; when
// flows have ended the table grows to the end.
func TestFlowsWaitForRoomInTheSecondTable(t *testing.T) {
	l := newLasting(t)
	l.stop = loader.GrowthNext
	if _, err := l.d.growFlows(t.Context(), 150, nil); !errors.Is(err, errInterrupted) {
		t.Fatal(err)
	}
	m, err := newMover(l.d.loader)
	l.do(err)
	got, err := m.walk(func() error { return nil })
	l.do(errors.Join(err, m.Close()))
	if got.full == 0 || got.moved == 0 {
		t.Fatalf("the walk: %+v, want some that were moved, and some without room", got)
	}
	l.wire.take(l.rig)
	for i := range l.talks {
		now := l.talks[i]
		now.server = end{}
		l.do(l.wire.fromClient(&now, packet.ACK))
		if now != l.talks[i] {
			t.Errorf("flow %d went from %v to %v, was from %v to %v", i, now.seen, now.server, l.talks[i].seen, l.talks[i].server)
		}
	}
	l.wantExact("with a part of the flows waiting")
	l.Advance(time.Hour)
	l.Advance(11 * time.Second)
	l.Advance(2 * time.Second)
	l.grow()
	l.wantExact("when it has grown")
	l.wantSize(150)
}
