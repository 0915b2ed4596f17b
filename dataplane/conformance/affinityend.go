// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// tick is how long the cases let pass at a time: a dataplane has to look after its
// flows within the last seconds of what keeps a client.
const tick = 4 * time.Second

// passes lets time pass in small steps.
func (e *env) passes(d time.Duration) {
	for ; d > tick; d -= tick {
		e.rig.Advance(tick)
	}
	e.rig.Advance(d)
}

// halfOpen is how long a flow lives that was never answered.
func (e *env) halfOpen() time.Duration {
	if e.proto == lb.TCP {
		return synRecv
	}
	return udpIdle
}

// endCases are about how long a client is kept. Each has two clients, one for each
// side of the end, as looking sets the time anew.
func endCases() []testCase {
	const minute = time.Minute
	begin := func(e *env, timeout time.Duration) {
		e.web("2 1", affinity(timeout))
		e.wantPicksOf(e.host(1), "2")
		e.wantPicksOf(e.host(2), "1")
	}
	return []testCase{
		{"a client is free after the timeout", 0, func(e *env) {
			begin(e, 1000*time.Second)
			e.rig.Advance(e.halfOpen() + slack)
			e.wantFlows("web", 2, 0)
			e.rig.Advance(1000*time.Second - e.halfOpen() - 2*slack)
			e.wantPicksOf(e.host(1), "2")
			e.rig.Advance(2 * slack)
			e.wantPicksOf(e.host(2), "2")
			e.wantPicksOf(e.host(1), "2")
			e.wantPicksOf(e.host(3), "1")
		}},
		{"each new flow sets the timeout anew", 0, func(e *env) {
			begin(e, 1000*time.Second)
			for range 3 {
				e.rig.Advance(e.halfOpen() + slack)
				e.rig.Advance(900*time.Second - e.halfOpen())
				e.wantPicksOf(e.host(1), "2")
			}
			e.rig.Advance(e.halfOpen() + slack)
			e.rig.Advance(1000*time.Second - e.halfOpen() - 2*slack)
			e.wantPicksOf(e.host(1), "2")
			e.wantPicksOf(e.host(2), "2")
		}},
		{"packets of a flow do not", 0, func(e *env) {
			begin(e, 1000*time.Second)
			c := e.openAt(e.clientAt(e.host(2)), e.vip(1))
			e.rig.Advance(250 * time.Second)
			c.stays()
			if e.proto == lb.TCP {
				c.sends(RST)
			}
			e.rig.Advance(udpIdle + slack)
			e.wantFlows("web", 1, 0)
			e.rig.Advance(1000*time.Second - 250*time.Second - udpIdle)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"a client is kept as long as a flow of it lives, and up to a minute", 0, func(e *env) {
			begin(e, 10*time.Second)
			e.passes(e.halfOpen() - 2*tick)
			e.wantPicksOf(e.host(1), "2")
			e.passes(2*tick + minute + 2*tick)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"if it lapses, flows that live do not keep a client", 0, func(e *env) {
			lapses := func(s *lb.Service) { s.Affinity.Lapses = true }
			e.web("2 1", affinity(10*time.Second), lapses)
			e.wantPicksOf(e.host(1), "2")
			e.wantPicksOf(e.host(2), "1")
			e.passes(10*time.Second - slack)
			e.wantPicksOf(e.host(1), "2")
			e.passes(2 * slack)
			e.wantPicksOf(e.host(2), "2")
			e.wantFlows("web", 2, 3)
			e.wantFlows("web", 1, 1)
		}},
		{"a minute at a time", 0, func(e *env) {
			begin(e, 10*time.Second)
			e.rig.Advance(e.halfOpen() - slack) // the end was long ago
			e.rig.Advance(10 * time.Second)
			e.wantFlows("web", 2, 0)
			e.rig.Advance(minute - 10*time.Second - slack)
			e.wantPicksOf(e.host(1), "2")
			e.rig.Advance(2 * slack)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"the minute begins at the end, if that is near", 0, func(e *env) {
			begin(e, e.halfOpen()+time.Second)
			e.rig.Advance(e.halfOpen() - slack)
			e.rig.Advance(12 * time.Second) // 9 after the end, and its flow is no more
			e.rig.Advance(minute - 11*time.Second)
			e.wantPicksOf(e.host(1), "2")
			e.rig.Advance(2 * slack)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"a closed connection keeps its client too", lb.TCP, func(e *env) {
			e.web("2 1", affinity(10*time.Second))
			e.openAt(e.clientAt(e.host(1)), e.vip(1)).closes()
			e.openAt(e.clientAt(e.host(2)), e.vip(1)).closes()
			e.passes(timeWait - 2*tick)
			e.wantPicksOf(e.host(1), "2")
			e.passes(2*tick + minute + 2*tick)
			e.wantPicksOf(e.host(2), "2")
		}},
		{"a flow keeps its client at its own backend only", 0, func(e *env) {
			e.web("2 1", affinity(10*time.Second))
			client := e.clientAt(e.host(1))
			c := e.openAt(client, e.vip(1))
			e.web("2:0 1", affinity(10*time.Second))
			e.wantPicksOf(e.host(1), "1") // which is kept by the second flow
			e.web("2 1", affinity(10*time.Second))
			e.passes(e.halfOpen() + minute + 3*tick)
			if e.proto == lb.TCP {
				c.stays()
			}
			e.wantPicksOf(e.host(1), "2")
		}},
		{"flows from before the affinity keep nobody", 0, func(e *env) {
			e.web("2 1")
			c := e.openAt(e.clientAt(e.host(1)), e.vip(1))
			e.web("2 1", affinity(10*time.Second))
			e.wantPicksOf(e.host(1), "1 1")
			e.passes(e.halfOpen() + minute + 3*tick)
			if e.proto == lb.TCP {
				c.stays()
			}
			e.wantPicksOf(e.host(1), "2")
		}},
	}
}
