// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// turn is a set of backends and where the next flows go.
type turn struct{ list, picks string }

// schedules are orders of picks as IPVS has them, written out, so that they
// stand on their own feet beside package sched.
func schedules() []struct {
	name, scheduler string
	turns           []turn
} {
	return []struct {
		name, scheduler string
		turns           []turn
	}{
		{"rr takes one after another in list order", "rr", []turn{{"3 2 1", "3 2 1 3 2 1 3"}}},
		{"rr ignores weights but zero", "rr", []turn{{"4:9 3:0 2:1 1:5", "4 2 1 4 2 1"}}},
		{"rr serves a newcomer when the walk wraps", "rr", []turn{{"3 2 1", "3 2"}, {"4 3 2 1", "1 4 3 2 1"}}},
		{"rr goes on behind a deleted backend", "rr", []turn{{"3 2 1", "3 2"}, {"3 1", "1 3 1"}}},
		{"rr goes on when the first is deleted", "rr", []turn{{"3 2 1", "3"}, {"2 1", "2 1 2"}}},
		{"rr keeps its place when another is deleted", "rr", []turn{{"4 3 2 1", "4 3"}, {"4 3 2", "2 4 3"}}},
		{"rr skips a quiesced backend and takes it back", "rr", []turn{{"3 2 1", "3"}, {"3 2:0 1", "1 3 1 3"}, {"3 2 1", "2 1 3"}}},
		{"rr keeps its place through an edit", "rr", []turn{{"3 2 1", "3"}, {"3 2 1:7", "2 1 3"}}},
		{"rr moves a backend that is added again to the head", "rr", []turn{{"3 2 1", "3 2 1"}, {"3 2", ""}, {"1 3 2", "1 3 2"}}},
		{"rr from empty and back", "rr", []turn{{"", "-"}, {"2 1", "2"}, {"", "- -"}, {"2 1", "2 1 2"}}},
		{"rr with all quiesced has nobody", "rr", []turn{{"2:0 1:0", "- -"}, {"2:0 1", "1 1"}}},
		{"wrr starts with the bottom pass of a cycle", "wrr", []turn{{"3:2 2:3 1:4", "3 2 1 1 2 1 3 2 1 3 2 1 1"}}},
		{"wrr with one heavy backend", "wrr", []turn{{"3:1 2:1 1:5", "3 2 1 1 1 1 1 3 2 1"}}},
		{"wrr divides by the greatest common divisor", "wrr", []turn{{"2:20 1:10", "2 1 2 2 1 2"}}},
		{"wrr with equal weights is rr", "wrr", []turn{{"2:2 1:2", "2 1 2 1"}}},
		{"wrr leaves out weight zero", "wrr", []turn{{"3:0 2:1 1:2", "2 1 1 2 1 1"}}},
		{"wrr returns to the head and keeps its threshold on an edit", "wrr", []turn{
			{"3:2 2:3 1:4", "3 2 1 1"},
			{"3:3 2:3 1:4", "1 3 2 1 3 2 1 3 2 1 1"},
		}},
		{"wrr with all quiesced has nobody", "wrr", []turn{{"2:0 1:0", "-"}, {"2:0 1:3", "1 1"}}},
	}
}

func scheduleCases() []testCase {
	var out []testCase
	for _, s := range schedules() {
		out = append(out, testCase{s.name, 0, func(e *env) {
			for _, turn := range s.turns {
				e.apply(e.service("web", s.scheduler, turn.list, 1))
				e.wantPicks(turn.picks)
			}
		}})
	}
	for _, name := range []string{"rr", "wrr"} {
		out = append(out, testCase{name + " follows its scheduler through edits", 0, func(e *env) { followsScheduler(e, name) }})
		out = append(out, testCase{name + " keeps its place when frontends change", 0, func(e *env) {
			e.apply(e.service("web", name, "3:2 2:3 1:4", 1))
			e.wantPicks("3 2")
			e.apply(e.service("web", name, "3:2 2:3 1:4", 1, 2))
			e.wantPicks("1")
			e.apply(e.service("web", name, "3:2 2:3 1:4", 2))
			e.wantPicksAt(e.vip(2), map[string]string{"rr": "3 2", "wrr": "1 2"}[name])
		}})
	}
	return append(out,
		testCase{"a scheduler bound to a service with backends starts at its top", 0, func(e *env) {
			e.apply(e.service("web", "rr", "2 1:2", 1))
			e.wantPicks("2 1 2")
			e.apply(e.service("web", "wrr", "2 1:2", 1))
			e.wantPicks("1 2 1 1")
			e.apply(e.service("web", "rr", "2 1:2", 1))
			e.wantPicks("2 1 2")
		}},
		testCase{"frontends of a service share its place", 0, func(e *env) {
			e.apply(e.service("web", "rr", "3 2 1", 1, 2))
			e.wantPicksAt(e.vip(1), "3")
			e.wantPicksAt(e.vip(2), "2")
			e.wantPicksAt(e.vip(1), "1")
		}},
	)
}

// followsScheduler edits a service again and again, one change at a time, and
// wants the picks that package sched says.
func followsScheduler(e *env, scheduler string) {
	random := rand.New(rand.NewPCG(1, uint64(len(scheduler))))
	list := e.list("4:3 3:2 2:1 1:4")
	var run *sched.Run
	var at sched.Position
	for round := range 40 {
		if round > 0 {
			list = e.edit(random, list)
		}
		svc := e.service("web", scheduler, "", 1)
		svc.Backends = list
		var err error
		if run, err = sched.Compile(svc, run, at); err != nil {
			e.Fatalf("compile %v: %v", list, err)
		}
		at = sched.Position{Next: run.Start}
		e.apply(svc)
		want := make([]string, random.IntN(7))
		for i := range want {
			want[i] = "-"
			if n, ok := run.Select(sched.Packet{}, &at, unloaded(list)); ok {
				want[i] = fmt.Sprint(e.serverNumber(list[n].Addr))
			}
		}
		e.wantPicks(strings.Join(want, " "))
		if e.Failed() {
			e.Fatalf("in round %d, backends %v", round, list)
		}
	}
}

// unloaded are backends that nobody is connected to.
type unloaded []lb.Backend

func (u unloaded) Usable(i int) bool                  { return u[i].Usable() }
func (u unloaded) Load(int) (active, inactive uint32) { return 0, 0 }

// edit returns a copy of list with one change: an addition at the head, a
// deletion, or another weight.
func (e *env) edit(random *rand.Rand, list []lb.Backend) []lb.Backend {
	list = slices.Clone(list)
	i := 0
	if len(list) > 0 {
		i = random.IntN(len(list))
	}
	switch n := random.IntN(3); {
	case n == 0 && len(list) > 1:
		return slices.Delete(list, i, i+1)
	case n == 1 && len(list) > 0:
		list[i].Weight = (list[i].Weight + 1 + uint16(random.IntN(4))) % 6
		return list
	}
	for n := 1; ; n++ {
		free := !slices.ContainsFunc(list, func(b lb.Backend) bool { return b.Addr == e.server(n) })
		if free {
			return slices.Insert(list, 0, lb.Backend{Addr: e.server(n), Weight: uint16(random.IntN(5))})
		}
	}
}
