// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// TestSipHash has the first vector of the authors', for one round and three.
func TestSipHash(t *testing.T) {
	var key [16]byte
	for i := range key {
		key[i] = byte(i)
	}
	got := sipHash(binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:]), nil)
	if want := binary.LittleEndian.Uint64([]byte{0xdc, 0xc4, 0x0f, 0x05, 0x58, 0x01, 0xac, 0xab}); got != want {
		t.Errorf("of nothing: %#x, want %#x", got, want)
	}
}

// table is what the schedulers' own rules see of a model.
type table struct {
	*model
	run *sched.Run
}

func (t table) Usable(i int) bool { return t.run.Backends[i].Usable() && !t.isOverloaded(uint32(i+1)) }

func (t table) Load(i int) (active, inactive uint32) {
	l := t.loadOf(uint32(i + 1))
	return l.Active, l.Inactive
}

// TestTheModelPicksAsTheSchedulers compares its picks from the runs of all
// schedulers with the rules of package sched, which recordings have tested.
func TestTheModelPicksAsTheSchedulers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		s := &service{}
		for s.scheduler == "" {
			s.bind(r)
		}
		svc := lb.Service{Scheduler: s.scheduler, SchedulerFlags: s.schedulerFlags}
		var ids []uint32
		for i := range 1 + r.IntN(5) {
			ids = append(ids, uint32(i+1))
			svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.AddrPortFrom(v4(8, 0, 1, byte(i)), 80), Weight: s.weight(r), Unhealthy: r.IntN(8) == 0})
		}
		c, err := sched.Compile(&svc, svc.Backends, nil, sched.Position{})
		if err != nil {
			t.Fatal(err)
		}
		m := newModel(&world{}, coverage{}, 0)
		runs, at := runOf(c, ids), sched.Position{Next: c.Start}
		for range 20 {
			*m.loadOf(pick(r, ids...)) = gauges{Active: r.Uint32N(3), Inactive: r.Uint32N(600), Overloaded: r.Uint32N(2)}
			comparePick(t, r, m, &runs, c, &at)
		}
	}
}

func comparePick(t *testing.T, r *rand.Rand, m *model, runs *pool, c *sched.Run, at *sched.Position) {
	t.Helper()
	src := v4(198, 18, 0, byte(r.IntN(256)))
	if r.IntN(2) == 0 {
		src = v6(byte(r.IntN(256)), byte(r.IntN(256)))
	}
	p := pkt{src: src.As16(), dst: v4(198, 18, 255, byte(r.IntN(256))).As16(), sport: uint16(r.IntN(65536))}
	i, ok := c.Select(sched.Packet{Src: src, Dst: netip.AddrFrom16(p.dst), SrcPort: p.sport}, at, table{m, c})
	want := uint32(0)
	if ok {
		want = uint32(i + 1)
	}
	if got := m.pick(runs, &p); got != want {
		t.Fatalf("%s of %+v: %d, want %d", c.Scheduler, runs, got, want)
	}
	if runs.rule == ruleCursor && (runs.cursor != at.Next || runs.failed != at.Failed) {
		t.Fatalf("%s stands at %d, %d, want %+v", c.Scheduler, runs.cursor, runs.failed, *at)
	}
}
