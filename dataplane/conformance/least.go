// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// leastSchedules are those of the schedulers that count flows. Those of TCP are
// active, those of UDP are not, and lc and wlc do not mind.
func leastSchedules() []schedule {
	return []schedule{
		{"lc takes the fewest, of equal ones the first", "lc", []turn{{"3 2 1", "3 2 1 3 2 1 3"}}},
		{"lc ignores weights but zero", "lc", []turn{{"4:9 3:0 2:1 1:5", "4 2 1 4 2 1"}}},
		{"lc gives a newcomer what it lacks", "lc", []turn{{"2 1", "2 1 2 1"}, {"3 2 1", "3 3 3 2 1 3"}}},
		{"lc gives a quiesced backend what it lacks when it is back", "lc", []turn{{"2 1", "2 1"}, {"2:0 1", "1 1"}, {"2 1", "2 2 2 1 2"}}},
		{"lc counts what a removed backend still has when it is back", "lc", []turn{{"2 1", "2 1 2 1"}, {"1", "1"}, {"2 1", "2 2 1"}}},
		{"lc with all quiesced has nobody", "lc", []turn{{"", "-"}, {"2:0 1:0", "- -"}, {"2! 1", "1 1"}}},
		{"wlc takes the fewest for its weight", "wlc", []turn{{"3:1 2:2 1:3", "3 2 1 1 2 1 3 2 1 1 2 1"}}},
		{"wlc with equal weights is lc", "wlc", []turn{{"3:7 2:7 1:7", "3 2 1 3 2 1"}}},
		{"wlc takes the first of those without flows, whatever its weight", "wlc", []turn{{"2:1 1:65535", "2 1 1 1"}}},
		{"wlc weighs anew after an edit", "wlc", []turn{{"2:1 1:3", "2 1 1 1 2"}, {"2:3 1:3", "2 2 1"}, {"2:3 1:1", "2 2 2 2 2 2 2 2 2 1"}}},
		{"wlc leaves out weight zero and who is unhealthy", "wlc", []turn{{"3:0 2:1! 1:2", "1 1"}, {"3:0 2:0 1:2!", "-"}}},
	}
}

// activeSchedules are those of the schedulers that count active flows.
func activeSchedules() []schedule {
	return []schedule{
		{"sed takes the shortest expected delay", "sed", []turn{{"3:1 2:2 1:3", "1 2 1 3 2 1 1 2 1 3 2 1"}}},
		{"sed with equal weights takes turns", "sed", []turn{{"3 2 1", "3 2 1 3 2 1"}}},
		{"sed fills the heavy first", "sed", []turn{{"2:1 1:4", "1 1 1 2 1 1 1 1 2"}}},
		{"sed weighs anew after an edit", "sed", []turn{{"2:1 1:2", "1 2 1"}, {"2:2 1:1", "2 2 2 2 2 1"}}},
		{"nq takes the first without a connection, whatever its weight", "nq", []turn{{"3:1 2:2 1:3", "3 2 1 1 2 1 1 2 1 3"}}},
		{"nq takes a newcomer first", "nq", []turn{{"2:9 1:1", "2 1 2 2"}, {"3 2:9 1:1", "3 2"}}},
		{"nq leaves out weight zero and who is unhealthy", "nq", []turn{{"4:0 3! 2:1 1:2", "2 1 1"}}},
	}
}

// inactiveSchedules are what these do where no flow is active.
func inactiveSchedules() []schedule {
	return []schedule{
		{"sed takes the first of the greatest weight", "sed", []turn{{"3:1 2:2 1:3", "1 1 1"}, {"3:1 2:3 1:3", "2 2"}, {"3:1 2:3! 1:0", "3 3"}}},
		{"nq takes the first", "nq", []turn{{"3:1 2:2 1:3", "3 3 3"}, {"3:0 2:2 1:3", "2 2"}, {"4 3! 2 1", "4 4"}}},
	}
}

func leastCases() []testCase {
	return slices.Concat([]testCase{
		{"lc and wlc", 0, playAll(leastSchedules())},
		{"sed and nq", lb.TCP, playAll(activeSchedules())},
		{"sed and nq without active flows", lb.UDP, playAll(inactiveSchedules())},
	}, closingCases())
}

// playAll plays schedules in one world, each at a service of its own.
func playAll(list []schedule) func(*env) {
	return func(e *env) {
		for i, s := range list {
			e.part(s.name, func(e *env) { s.playsAt(e, fmt.Sprint("web", i), 1+i) })
		}
	}
}

// closingCases are about what connections count for when they close.
func closingCases() []testCase {
	return []testCase{
		{"to lc an active connection is 257 closed ones", lb.TCP, func(e *env) {
			e.web("2 1", scheduler("lc", 0))
			a, b, c := e.open(), e.open(), e.open()
			a.closes()
			c.closes()
			if b.server != 1 {
				e.Errorf("the second connection is at server %d, want 1", b.server)
			}
			e.wantPicks("2 1 2 1")
		}},
		{"to wlc a closed connection still counts", lb.TCP, func(e *env) {
			e.web("2 1", scheduler("wlc", 0))
			e.open().closes()
			e.wantPicks("1 2 1")
		}},
		{"to sed a closed connection does not count", lb.TCP, func(e *env) {
			e.web("2 1", scheduler("sed", 0))
			e.open().closes()
			e.wantPicks("2 1 2")
		}},
		{"to nq a backend whose connections closed is idle", lb.TCP, func(e *env) {
			e.web("2 1:9", scheduler("nq", 0))
			e.open().closes()
			e.open().closes()
			e.wantPicks("2 1 1")
		}},
		{"flows that ended do not count", 0, func(e *env) {
			e.web("3 2 1", scheduler("lc", 0))
			e.wantPicks("3 2 1 3 2")
			e.rig.Advance(time.Hour)
			e.wantPicks("3 2 1 3")
		}},
		{"counts are a service's own", 0, func(e *env) {
			e.apply(e.service("web", "lc", "2 1", 1), e.service("shop", "lc", "2 1", 2))
			e.wantPicksAt(e.vip(1), "2")
			e.wantPicksAt(e.vip(2), "2 1")
			e.wantPicksAt(e.vip(1), "1")
		}},
		{"counts are of all frontends together", 0, func(e *env) {
			e.apply(e.service("web", "lc", "2 1", 1, 2))
			e.wantPicksAt(e.vip(1), "2")
			e.wantPicksAt(e.vip(2), "1 2")
			e.wantPicksAt(e.vip(1), "1")
		}},
	}
}
