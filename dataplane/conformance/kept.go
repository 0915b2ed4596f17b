// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// keptCases are about what a process that dies leaves to the next: each looks
// before the next one's first Apply and after.
func keptCases() []testCase {
	return []testCase{
		{"clients are kept at their backends", 0, func(e *env) {
			restarted(e, []change{affinity(time.Hour)}, "2 1", func() {
				e.wantPicksOf(e.host(1), "2")
				e.wantPicksOf(e.host(2), "1")
			}, func() {
				e.wantPicksOf(e.host(2), "1")
				e.wantPicksOf(e.host(1), "2")
			})
		}},
		{"clients are kept as long as before", 0, func(e *env) {
			e.web("2 1", affinity(1000*time.Second))
			e.wantPicksOf(e.host(1), "2")
			e.wantPicksOf(e.host(2), "1")
			e.rig.Advance(e.halfOpen() + slack)
			e.restart()
			e.web("2 1", affinity(1000*time.Second))
			e.rig.Advance(1000*time.Second - e.halfOpen() - 20*slack) // a restart takes long on some machines
			e.wantPicksOf(e.host(1), "2")
			e.rig.Advance(21 * slack)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"a connection keeps its client, whoever made it", 0, func(e *env) {
			e.web("2 1", affinity(10*time.Second))
			e.wantPicksOf(e.host(1), "2")
			e.restart()
			e.web("3 2 1", affinity(10*time.Second))
			e.passes(e.halfOpen() - 2*tick)
			e.wantPicksOf(e.host(1), "2")
		}},
		{"an overloaded backend is so, between its thresholds", 0, func(e *env) {
			var c []*conn
			restarted(e, nil, "2^4-2", func() {
				c = e.opens(4)
				e.endAllBut(c[:3]...)
			}, func() { e.wantPicks("-") })
			e.endAllBut(c[0])
			e.wantPicks("2 2 2 -")
		}},
		{"a removed backend that is overloaded is so when it is back", 0, func(e *env) {
			e.web("2^4-2 1")
			c := e.opens(7)
			e.endAllBut(c[0], c[2], c[4])
			e.web("1")
			e.restart()
			e.web("2^4-2 1")
			e.wantPicks("1 1")
			e.wantFlows("web", 2, 3)
		}},
		{"loads are as before to who counts", 0, func(e *env) {
			lc := scheduler("lc", 0)
			e.web("3 2 1", lc)
			c := e.opens(6)
			e.endAllBut(c[0], c[1], c[4]) // at 3, 2 and 2
			e.restart()
			e.wantPicks("1")
			e.web("3 2 1", lc)
			e.wantPicks("3 1 3")
			e.restart()
			e.wantPicks("2")
			e.web("3 2 1", lc)
			e.wantPicks("1 3 2 1")
		}},
		{"wrr remembers who could not be picked", 0, func(e *env) {
			wrr := scheduler("wrr", 0)
			e.web("2:1^1 1:4^3", wrr)
			e.wantPicks("2 1 1 1 -") // the last one walks to the top
			e.restart()
			e.web("2:1^1 1:4^3", wrr)
			e.web("2:1 1:4^9", wrr)
			e.wantPicks("1 1 1 2 1")
		}},
		{"mh: places are as before, of a quiesced backend too", 0, func(e *env) {
			for _, flags := range []lb.SchedulerFlags{0, lb.SchedulerFallback} {
				mh := scheduler("mh", flags)
				e.web("3 2:5 1", mh)
				first := strings.Join(e.places(), " ")
				e.web("3 2:0 1", mh)
				want := strings.Join(e.places(), " ")
				places := func(want string) {
					e.Helper()
					if got := strings.Join(e.places(), " "); got != want {
						e.Errorf("clients are at %s, want them at %s", got, want)
					}
				}
				for range 2 {
					e.restart()
					places(want)
					e.web("3 2:0 1", mh)
					places(want)
				}
				e.web("3 2:5 1", mh)
				places(first)
			}
		}},
		{"mh: who became quiesced meanwhile keeps its places", 0, func(e *env) {
			mh := scheduler("mh", 0)
			e.web("3 2:5 1", mh)
			before := e.places()
			e.restart()
			e.web("3 2:0 1", mh)
			for _, now := range e.wantMoved(before, e.places(), "2", 0) {
				if now != "-" {
					e.Errorf("a client of server 2 went to %s, want it refused", now)
				}
			}
		}},
		{"sh: buckets are as before", 0, func(e *env) {
			restarted(e, []change{scheduler("sh", lb.SchedulerFallback)}, "3:3 2 1", func() {}, func() { e.wantBuckets(of("3 3 3 2 1")) })
		}},
		{"datagrams are scheduled one by one, in turn", lb.UDP, func(e *env) {
			client := e.client()
			want := []string{"3", "2", "1"}
			next := func() {
				e.Helper()
				if got := e.pick(client, e.vip(1)); got != want[0] {
					e.Errorf("went to %s, want %s", got, want[0])
				}
				want = append(want[1:], want[0])
			}
			restarted(e, []change{onePacket}, "3 2 1", next, next)
			next()
		}},
		{"all ports are served", 0, func(e *env) {
			e.apply(e.anyPort("2 1"))
			c := e.openTo(e.clientAt(e.host(1)), e.port(1, 21), e.serverAt(2, 21))
			for range 2 {
				e.restart()
				c.stays()
				e.openTo(e.clientAt(e.host(1)), e.port(1, 22), e.serverAt(2, 22)).stays()
				e.apply(e.anyPort("2 1"))
				c.stays()
				e.openTo(e.clientAt(e.host(1)), e.port(1, 23), e.serverAt(2, 23)).stays()
			}
			e.openTo(e.clientAt(e.host(2)), e.port(1, 21), e.serverAt(1, 21)).stays()
		}},
		{"when a connection's port is used again is as was said", lb.TCP, func(e *env) {
			var c *conn
			restarted(e, []change{reuse(lb.ReuseNever)}, "2 1", func() {
				c = e.open()
				c.closes()
			}, func() {
				c.again(2)
				c.replies(SYN | ACK)
				c.closes()
			})
		}},
	}
}

// restarted applies a service and lets begin happen; then wants to see the same
// under a process that dies, with nobody there, and under the next two.
func restarted(e *env, changes []change, list string, begin, see func()) {
	e.web(list, changes...)
	begin()
	for range 2 {
		e.restart()
		see()
		e.web(list, changes...)
		see()
	}
}

// lostRestartCases are about flows whose backend was lost before or meanwhile.
func lostRestartCases() []testCase {
	return []testCase{
		{"dropped flows stay so, and go on when the backend is back", 0, func(e *env) {
			for i, way := range ways {
				list := way.list
				e.part(way.name, func(e *env) {
					drop := lost(lb.LostDrop)
					service := func(list string) *lb.Service {
						svc := e.service(way.name, "rr", list, 1+i)
						drop(svc)
						return svc
					}
					e.apply(service("2 1"))
					c := e.openAt(e.client(), e.vip(1+i))
					e.apply(service(list))
					for range 2 {
						e.restart()
						e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
						e.apply(service(list))
						e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
						e.wantFlows(way.name, 2, 1)
					}
					e.restart()
					e.apply(service("2 1"))
					c.stays()
				})
			}
		}},
		{"reset, flows of a backend that left meanwhile end", 0, func(e *env) {
			reset := lost(lb.LostReset)
			e.web("2 1", reset)
			c, other := e.open(), e.open()
			e.restart()
			e.web("1", reset)
			e.rig.Advance(slack)
			e.wantFlows("web", 2, 0)
			other.stays()
			if e.proto == lb.TCP {
				e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			} else {
				c.again(1)
			}
		}},
		{"reset, flows of a backend that left before end, with nobody there and after", 0, func(e *env) {
			reset := lost(lb.LostReset)
			e.web("2 1", reset)
			c, silent := e.opens(3), e.begin()
			e.web("1", reset)
			e.restart()
			again := func(c *conn) {
				if e.proto == lb.TCP {
					e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
				} else {
					c.again(1)
				}
			}
			again(c[0])
			e.web("1", reset)
			again(c[2])
			e.rig.Advance(slack)
			e.wantFlows("web", 2, 0)
			silent.stays()
		}},
		{"dropped flows of a service that is gone stay so", 0, func(e *env) {
			shop := e.service("shop", "rr", "3", 2)
			e.apply(e.changed("2 1", lost(lb.LostDrop)), shop)
			c := e.open()
			e.apply(shop)
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
			e.restart()
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
			e.apply(shop)
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
		}},
		{"reset, flows of a service that is gone end", 0, func(e *env) {
			shop := e.service("shop", "rr", "3", 2)
			for _, name := range []string{"gone meanwhile", "gone before"} {
				e.part(name, func(e *env) {
					web := e.changed("1", lost(lb.LostReset))
					e.apply(web, shop)
					e.open()
					if name == "gone before" {
						e.apply(shop)
					}
					e.restart()
					e.apply(shop)
					e.rig.Advance(slack)
					e.apply(web, shop)
					e.wantFlows("web", 1, 0)
				})
			}
		}},
		{"an unhealthy backend is so", 0, func(e *env) {
			restarted(e, nil, "3 2! 1", func() {}, func() { e.wantPicks("3 1") })
		}},
	}
}
