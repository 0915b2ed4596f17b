// SPDX-License-Identifier: Apache-2.0

package conformance

import "github.com/waggle-lb/waggle/lb"

// restartCases are about a process that dies and another that takes over.
func restartCases() []testCase {
	return []testCase{
		{"flows go on with nobody there, and under the next", 0, func(e *env) {
			snap := e.apply(e.service("web", "rr", "2 1", 1))
			c, half := e.open(), e.begin()
			e.restart()
			c.stays()
			e.wantFlows("web", 2, 1)
			e.applySnapshot(snap)
			c.stays()
			half.replies(SYN | ACK)
			half.sends(ACK)
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 1)
		}},
		{"what is held is read back before the first Apply", 0, func(e *env) {
			snap := e.apply(e.service("web", "wrr", "3:2 1:0 2:5", 2, 1), e.service("empty", "rr", "", 3), e.service("shop", "rr", "1 9 2", 4))
			e.restart()
			e.holds(snap)
			e.applySnapshot(snap)
			e.holds(snap)
		}},
		{"rr goes on where it was", 0, func(e *env) { restartSchedule(e, "rr", []string{"3 2", "1", "3 2 1"}) }},
		{"wrr goes on where it was", 0, func(e *env) { restartSchedule(e, "wrr", []string{"3 2", "1", "1 2 1 3 2 1"}) }},
		{"counters go on", 0, func(e *env) {
			snap := e.apply(e.service("web", "rr", "1", 1))
			e.open().stays()
			e.wants(e.fromClient(e.client(), e.unknown(), SYN), refused("unknown_port", Unreachable))
			want, drops := e.backend("web", 1), e.counters().Drops["unknown_port"]
			e.restart()
			e.applySnapshot(snap)
			if got := e.backend("web", 1); got != want || got.InPackets == 0 {
				e.Errorf("counters %+v, want %+v", got, want)
			}
			if got := e.counters().Drops["unknown_port"]; got != drops || got == 0 {
				e.Errorf("%d drops, before %d", got, drops)
			}
		}},
	}
}

// meanwhileCases are about changes made while nobody was there.
func meanwhileCases() []testCase {
	return []testCase{
		{"a backend that left meanwhile is removed", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.restart()
			e.holds(e.apply(e.service("web", "rr", "1", 1)))
			e.wantPicks("1 1")
			if e.proto == lb.TCP {
				c.stays()
			} else {
				c.again(1)
			}
		}},
		{"a flow counts at its backend among others that came meanwhile", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.restart()
			e.apply(e.service("web", "rr", "9 8 2 7 1", 1), e.service("shop", "rr", "6 5", 2))
			c.stays()
			for server, n := range map[int]uint64{9: 0, 8: 0, 2: 1, 7: 0, 1: 0} {
				e.wantFlows("web", server, n)
			}
			c.stays()
			e.picksAt(e.vip(2), 2)
			e.wantFlows("shop", 6, 1)
		}},
		{"a service that left meanwhile is removed, its flows go on", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			c := e.open()
			e.restart()
			e.holds(e.apply(e.service("shop", "rr", "2", 2)))
			c.stays()
			p := e.fromClient(e.client(), e.vip(1), SYN)
			e.wants(p, passed(p))
			e.wantPicksAt(e.vip(2), "2")
		}},
		{"a backend removed before and back after finds its flows", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("1")
			e.restart()
			e.web("2 1")
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"again and again", 0, func(e *env) {
			svc := e.service("web", "rr", "3 2 1", 1)
			e.apply(svc)
			c := e.open()
			for _, want := range []string{"2", "1", "3", "2"} {
				e.restart()
				e.apply(svc)
				e.wantPicks(want)
				c.stays()
			}
			e.wantFlows("web", 3, 2)
		}},
	}
}

// restartSchedule takes picks before the process dies, with nobody there, and
// under the next, which is given equal services.
func restartSchedule(e *env, scheduler string, picks []string) {
	service := func() *lb.Service { return e.service("web", scheduler, "3:2 2:3 1:4", 1) }
	e.apply(service())
	e.wantPicks(picks[0])
	e.restart()
	e.wantPicks(picks[1])
	e.apply(service())
	e.wantPicks(picks[2])
}
