// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// thresholdCases are about backends that take so many connections and no more.
func thresholdCases() []testCase {
	return slices.Concat(overloadCases(), bandCases(), thresholdEditCases(), parkedCases())
}

func overloadCases() []testCase {
	return []testCase{
		{"a backend at its upper threshold gets nothing new", 0, func(e *env) {
			e.web("2^2 1")
			e.wantPicks("2 1 2 1 1 1")
			e.wantFlows("web", 2, 2)
		}},
		{"all at their thresholds refuse", 0, func(e *env) {
			e.web("2^1 1^2")
			e.wantPicks("2 1 1 - -")
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 2)
		}},
		{"the flows of an overloaded backend go on", 0, func(e *env) {
			e.web("2^1 1")
			c := e.open()
			e.wantPicks("1 1")
			c.stays()
			c.again(2)
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"a closed connection counts until it ends", lb.TCP, func(e *env) {
			e.web("2^1 1")
			e.open().closes()
			e.wantPicks("1")
			e.rig.Advance(timeWait + slack)
			e.wantPicks("2 1")
		}},
		{"what picks afresh frees its place", lb.TCP, func(e *env) {
			e.web("1^1")
			c := e.open()
			e.wantPicks("-")
			c.closes()
			e.wantPicks("-")
			c.again(1)
			e.wantPicks("-")
			e.wantFlows("web", 1, 1)
		}},
		{"thresholds are a service's own", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1^1", 1, 3), e.service("shop", "rr", "1^1", 2))
			e.wantPicksAt(e.vip(1), "1 -")
			e.wantPicksAt(e.vip(2), "1 -")
			e.wantPicksAt(e.vip(3), "-")
		}},
		{"wrr passes over who is overloaded", 0, func(e *env) {
			e.web("3:1 2:3^2 1:2", scheduler("wrr", 0))
			e.wantPicks("3 2 1 2 1 3 1 1 3 1")
		}},
		{"no scheduler picks who is overloaded", 0, everyScheduler},
	}
}

// everyScheduler lets many clients fill two backends that take three flows.
func everyScheduler(e *env) {
	for i, name := range sched.Names() {
		e.part(name, func(e *env) {
			s, err := sched.Find(name)
			if err != nil {
				e.Fatal(err)
			}
			svc := e.service(name, name, "2^1 1:5^2", 1+i)
			svc.SchedulerFlags = s.Flags
			e.apply(svc)
			var got []string
			for n := range 20 {
				got = append(got, e.pick(e.clientAt(e.host(n)), e.vip(1+i)))
			}
			one, two := strings.Count(strings.Join(got, " "), "1"), strings.Count(strings.Join(got, " "), "2")
			most := one == 2 && two == 1
			if name == "dh" { // all clients go to one backend
				most = one == 2 && two == 0 || one == 0 && two == 1
			}
			if !most {
				e.Errorf("new flows went to %v, want two at server 1 and one at server 2", got)
			}
		})
	}
}

// bandCases are about what lies between the thresholds: what is overloaded stays
// so, and what is not does too.
func bandCases() []testCase {
	return []testCase{
		{"an overloaded backend is free below its lower threshold", 0, func(e *env) {
			e.web("1^4-2")
			c := e.opens(4)
			e.wantPicks("-")
			e.endAllBut(c[:3]...)
			e.wantPicks("-")
			e.endAllBut(c[:2]...)
			e.wantPicks("-")
			e.endAllBut(c[:1]...)
			e.wantPicks("1 1 1 -")
			e.wantFlows("web", 1, 4)
		}},
		{"without a lower threshold, below three quarters of the upper one", 0, func(e *env) {
			e.web("1^5")
			c := e.opens(5)
			e.endAllBut(c[:4]...)
			e.wantPicks("-")
			e.endAllBut(c[:3]...)
			e.wantPicks("1 1 -")
		}},
		{"the quarter is rounded down: of three it is none", 0, func(e *env) {
			e.web("1^3")
			c := e.opens(3)
			e.wantPicks("-")
			e.endAllBut(c[:2]...)
			e.wantPicks("1 -")
		}},
		{"an upper threshold of one is free again without flows", 0, func(e *env) {
			e.web("1^1")
			e.opens(1)
			e.wantPicks("-")
			e.endAllBut()
			e.wantPicks("1 -")
		}},
		{"equal thresholds have nothing between them", 0, func(e *env) {
			e.web("1^4-4")
			c := e.opens(4)
			e.wantPicks("-")
			e.endAllBut(c[:3]...)
			e.wantPicks("1 -")
		}},
		{"what was not overloaded is not, between the thresholds", 0, func(e *env) {
			e.web("1^4-1")
			c := e.opens(3)
			e.endAllBut(c[:2]...)
			e.wantPicks("1 1 -")
		}},
		{"counters tell who is overloaded", 0, func(e *env) {
			e.web("1^4-2")
			c := e.opens(3)
			e.wantOverloaded("web", 1, false)
			c = append(c, e.opens(1)...)
			e.wantOverloaded("web", 1, true)
			e.endAllBut(c[:2]...)
			e.wantOverloaded("web", 1, true)
			e.endAllBut(c[:1]...)
			e.wantOverloaded("web", 1, false)
			e.web("1^1")
			e.wantOverloaded("web", 1, true)
			e.web("1")
			e.wantOverloaded("web", 1, false)
		}},
		{"a backend that stops being overloaded has its turn", 0, func(e *env) {
			e.web("2^2-2 1")
			c := e.opens(3) // 2 1 2
			e.wantPicks("1 1")
			e.endAllBut(c[0], c[1])
			e.wantPicks("2 1 1")
		}},
	}
}

// thresholdEditCases are about thresholds that change while flows are there.
func thresholdEditCases() []testCase {
	// each begins with 3 flows and thresholds of 4 and 2: overloaded, as there were
	// 4, or not
	edits := []struct {
		to         string
		overloaded string // picks after the edit if it was
		free       string // and if it was not
	}{
		{"1^4-2", "-", "1 -"},
		{"1:9^4-2", "-", "1 -"},
		{"1^6-3", "-", "1 1 1 -"},
		{"1^6-4", "1 1 1 -", "1 1 1 -"},
		{"1^6", "1 1 1 -", "1 1 1 -"}, // the lower one is 5
		{"1^4", "-", "1 -"},           // and here 3
		{"1^3", "-", "-"},
		{"1^3-1", "-", "-"},
		{"1^2", "-", "-"},
		{"1^4-4", "1 -", "1 -"},
		{"1^4-3", "-", "1 -"},
		{"1", "1 1 1", "1 1 1"},
		{"1:0^9", "-", "-"},
	}
	var out []testCase
	for _, was := range []string{"overloaded", "free"} {
		out = append(out, testCase{"thresholds are edited where a backend is " + was, 0, func(e *env) {
			for i, c := range edits {
				e.part("to "+c.to, func(e *env) {
					e.apply(e.service(c.to, "rr", "1^4-2", 1+i))
					n, want := 3, c.free
					if was == "overloaded" {
						n, want = 4, c.overloaded
					}
					var conns []*conn
					for range n {
						conns = append(conns, e.openAt(e.client(), e.vip(1+i)))
					}
					if was == "overloaded" {
						e.endAllBut(conns[:3]...)
					}
					e.apply(e.service(c.to, "rr", c.to, 1+i))
					e.wantPicksAt(e.vip(1+i), want)
				})
			}
		}})
	}
	return append(out, testCase{"raising the upper threshold may not free: the lower one rises too", 0, func(e *env) {
		e.web("1^4")
		c := e.opens(4)
		e.web("1^5")
		e.wantPicks("-")
		c[0].stays()
		e.web("1^6")
		e.wantPicks("1 1 -")
		e.web("1^5")
		e.wantPicks("-")
	}})
}

// parkedCases are about what outlives other changes.
func parkedCases() []testCase {
	// overload makes server 2 overloaded, with 3 flows between thresholds of 4 and 2
	overload := func(e *env) []*conn {
		e.web("2^4-2")
		c := e.opens(4)
		e.endAllBut(c[:3]...)
		return c[:3]
	}
	return []testCase{
		{"a removed backend that is back is still overloaded", 0, func(e *env) {
			overload(e)
			e.web("1")
			e.wantPicks("1")
			e.web("2^4-2 1")
			e.wantPicks("1 1")
			e.wantFlows("web", 2, 3)
		}},
		{"a removed backend that is back is judged by its new thresholds", 0, func(e *env) {
			overload(e)
			e.web("1")
			e.web("2^5-4 1")
			e.wantPicks("2 1 2 1 1")
		}},
		{"a removed backend whose flows end meanwhile is free when it is back", 0, func(e *env) {
			overload(e)
			e.web("1")
			e.rig.Advance(time.Hour)
			e.web("2^4-2 1")
			e.wantPicks("2 1 2 1")
		}},
		{"a service that is back finds its backend overloaded", 0, func(e *env) {
			overload(e)
			e.applySnapshot(nil)
			e.web("2^4-2 1")
			e.wantPicks("1 1")
		}},
		{"an overloaded backend is so to another scheduler", 0, func(e *env) {
			overload(e)
			for _, name := range sched.Names() {
				e.web("2^4-2", scheduler(name, 0))
				e.wantPicks("-")
			}
		}},
		{"an overloaded backend stays so when others come and go, and through its own rest", 0, func(e *env) {
			c := overload(e)
			for _, list := range []string{"3:0 2^4-2", "2^4-2", "2:0^4-2", "2^4-2!", "2:7^4-2"} {
				e.web(list)
				e.wantPicks("-")
			}
			e.web("2^4-2", affinity(time.Hour), lost(lb.LostReset))
			e.wantPicks("-")
			e.endAllBut(c[:1]...)
			e.wantPicks("2")
		}},
	}
}
