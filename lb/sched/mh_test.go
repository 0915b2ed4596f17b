// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// pool is n backends; no other test has pools of this port.
func pool(n int, port uint16, weight func(i int) int) *lb.Service {
	svc := service("mh")
	for i := range n {
		b := backend(i+1, uint16(weight(i)))
		b.Addr = netipWithPort(b.Addr, port)
		svc.Backends = append(svc.Backends, b)
	}
	return svc
}

func same(int) int { return 1 }

// edited is the service with other backends.
func edited(svc *lb.Service, f func([]lb.Backend)) *lb.Service {
	out := *svc
	out.Backends = slices.Clone(svc.Backends)
	f(out.Backends)
	return &out
}

func TestMaglevRemembersTheWeightOfTheQuiesced(t *testing.T) {
	svc := pool(3, 1, func(i int) int { return i + 1 })
	quiet := edited(svc, func(b []lb.Backend) { b[2].Weight = 0 })
	run := compile(t, svc, nil, Position{})
	for name, prev := range map[string]*Run{
		"quiesced":             run,
		"in another process":   Restore(svc, svc.Backends, nil),
		"while wlc scheduled":  compile(t, &lb.Service{Scheduler: "wlc", Backends: quiet.Backends}, run, Position{}),
		"quiesced before that": Restore(quiet, quiet.Backends, []uint16{1, 2, 3}),
		"twice":                compile(t, quiet, run, Position{}),
	} {
		got := compile(t, quiet, prev, Position{})
		if &got.Slots[0] != &run.Slots[0] {
			t.Errorf("%s: another table", name)
		}
		if w := []uint16{got.LastWeight(0), got.LastWeight(1), got.LastWeight(2)}; !slices.Equal(w, []uint16{1, 2, 3}) {
			t.Errorf("%s: last weights %v", name, w)
		}
	}
	never := compile(t, quiet, nil, Position{})
	if slices.Contains(never.Slots, 2) || never.LastWeight(2) != 0 {
		t.Error("a backend that never had a weight has slots")
	}
	sick := compile(t, edited(svc, func(b []lb.Backend) { b[0].Unhealthy = true }), nil, Position{})
	if &sick.Slots[0] != &run.Slots[0] {
		t.Error("health changes the table")
	}
	none := compile(t, pool(2, 1, func(int) int { return 0 }), nil, Position{})
	if _, ok := none.Select(Packet{}, nil, nil); ok || len(none.Slots) != 0 {
		t.Error("backends that never had a weight make a table")
	}
}

func TestEqualPoolsShareATable(t *testing.T) {
	runs := make([]*Run, 8)
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() { runs[i] = compile(t, pool(5, 2, same), nil, Position{}) })
	}
	wg.Wait()
	for _, r := range runs {
		if &r.Slots[0] != &runs[0].Slots[0] {
			t.Fatal("equal pools have two tables")
		}
	}
	for name, svc := range map[string]*lb.Service{
		"order":   edited(pool(5, 2, same), slices.Reverse),
		"weights": edited(pool(5, 2, same), func(b []lb.Backend) { b[1].Weight = 2 }),
		"ports":   edited(pool(5, 2, same), func(b []lb.Backend) { b[1].Addr = netipWithPort(b[1].Addr, 3) }),
	} {
		if r := compile(t, svc, nil, Position{}); slices.Equal(r.Slots, runs[0].Slots) {
			t.Errorf("pools that differ in %s have one table", name)
		}
	}
	if r := compile(t, pool(5, 2, func(int) int { return 7 }), nil, Position{}); &r.Slots[0] != &runs[0].Slots[0] {
		t.Error("weights that say the same make another table")
	}
}

func TestTablesThatNobodyHasAreForgotten(t *testing.T) {
	svc := pool(5, 4, same)
	run := compile(t, svc, nil, Position{})
	key := keyOf(svc.Backends, mhTurns(run))
	known := func() bool {
		tables.Lock()
		defer tables.Unlock()
		_, ok := tables.byContent[key]
		return ok
	}
	runtime.GC()
	if again := compile(t, svc, nil, Position{}); &again.Slots[0] != &run.Slots[0] {
		t.Error("a table in use was forgotten")
	}
	runtime.KeepAlive(run)
	for deadline := time.Now().Add(5 * time.Second); known(); {
		if runtime.GC(); time.Now().After(deadline) {
			t.Fatal("a table that nobody has is still known")
		}
	}
}

// Every slot belongs to a backend, and weights are shares.
func TestMaglevTablesAreFull(t *testing.T) {
	for _, n := range []int{1, 2, 1000, mhSlots, mhSlots + 100} {
		run := compile(t, pool(n, 5, same), nil, Position{})
		count := make([]int, n)
		for _, i := range run.Slots {
			count[i]++
		}
		if top, low := slices.Max(count), slices.Min(count); len(run.Slots) != mhSlots || top-low > 1 {
			t.Errorf("%d backends: %d slots, from %d to %d of each", n, len(run.Slots), low, top)
		}
	}
}

func BenchmarkMaglev(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		for name, weight := range map[string]func(int) int{"same": same, "mixed": func(i int) int { return 1 + i*7919%100 }} {
			svc := pool(n, 6, weight)
			run := compile(b, svc, nil, Position{})
			turns := mhTurns(run)
			b.Run(fmt.Sprintf("build-%d-%s", n, name), func(b *testing.B) {
				t := new(mhTable)
				for b.Loop() {
					fillTable(t, svc.Backends, turns)
				}
			})
			b.Run(fmt.Sprintf("shared-%d-%s", n, name), func(b *testing.B) {
				for b.Loop() {
					compile(b, svc, nil, Position{})
				}
			})
			runtime.KeepAlive(run)
		}
	}
}
