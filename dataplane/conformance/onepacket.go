// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// onePacketCases are about datagrams that are scheduled one by one.
func onePacketCases() []testCase {
	return slices.Concat(datagramCases(), datagramEditCases())
}

// wantDatagrams sends datagrams from one port and wants them at these servers.
func (e *env) wantDatagrams(servers ...int) {
	e.Helper()
	client := e.client()
	for _, n := range servers {
		e.wants(e.fromClient(client, e.vip(1), 0), Outcome{Verdict: lb.Forward, Src: client, Dst: e.server(n)})
	}
}

func datagramCases() []testCase {
	return []testCase{
		{"each datagram is scheduled by itself", lb.UDP, func(e *env) {
			e.web("3 2 1", onePacket)
			e.wantDatagrams(3, 2, 1, 3)
			e.wantDatagrams(2, 1)
			e.web("3:1 2:3", onePacket, scheduler("wrr", 0))
			e.wantDatagrams(2, 2, 3, 2, 2, 2, 3, 2)
		}},
		{"nothing is kept of it, and it counts as a connection", lb.UDP, func(e *env) {
			e.web("2 1", onePacket)
			e.wantDatagrams(2, 1, 2)
			for server, n := range map[int]uint64{2: 2, 1: 1} {
				e.wantLoad("web", server, 0, 0)
				e.wantTraffic("web", server, dataplane.BackendCounters{Connections: n, InPackets: n, InBytes: n * e.size(0)})
			}
		}},
		{"answers come from the backend's own address", lb.UDP, func(e *env) {
			e.web("1", onePacket)
			client := e.client()
			e.wants(e.fromClient(client, e.vip(1), 0), Outcome{Verdict: lb.Forward, Src: client, Dst: e.server(1)})
			p := e.fromBackend(e.server(1), client, 0)
			e.wants(p, passed(p))
			if n := e.backend("web", 1).OutPackets; n != 0 {
				e.Errorf("%d answers counted, want 0", n)
			}
		}},
		{"who cannot serve gets none, nobody refuses", lb.UDP, func(e *env) {
			e.web("3:0 2! 1", onePacket)
			e.wantDatagrams(1, 1)
			e.web("3:0 2!", onePacket)
			e.wantPicks("- -")
			e.web("", onePacket)
			e.wantPicks("-")
		}},
		{"they fill no threshold, and no backend is loaded", lb.UDP, func(e *env) {
			e.web("2^1 1", onePacket, scheduler("lc", 0))
			e.wantDatagrams(2, 2, 2)
		}},
		{"a client that is hashed stays", lb.UDP, func(e *env) {
			for _, name := range []string{"sh", "mh"} {
				e.web("4 3 2 1", onePacket, scheduler(name, lb.SchedulerPort))
				for range 5 {
					client := e.client()
					first := e.pick(client, e.vip(1))
					for range 3 {
						if got := e.pick(client, e.vip(1)); got != first {
							e.Errorf("%s: %s went to %s and then to %s", name, client, first, got)
						}
					}
				}
			}
		}},
		{"affinity keeps clients of single datagrams", lb.UDP, func(e *env) {
			e.web("2 1", onePacket, affinity(100*time.Second))
			e.wantPicksOf(e.host(1), "2 2 2")
			e.wantPicksOf(e.host(2), "1 1")
			e.rig.Advance(98 * time.Second)
			e.wantPicksOf(e.host(1), "2")
			e.rig.Advance(4 * time.Second)
			e.wantPicksOf(e.host(2), "2 2")
			e.wantPicksOf(e.host(1), "2")
			e.wantLoad("web", 2, 0, 0)
		}},
		{"TCP of such a service has connections as ever", lb.TCP, func(e *env) {
			e.web("2 1", onePacket)
			c := e.open()
			e.wantPicks("1")
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"a packet to it that is found at egress is dropped", lb.UDP, func(e *env) {
			e.web("1", onePacket)
			e.wants(e.fromBackend(e.client(), e.vip(1), 0), dropped("untranslated"))
		}},
	}
}

// datagramEditCases are about the word that comes and goes.
func datagramEditCases() []testCase {
	return []testCase{
		{"flows from before go on to their end", lb.UDP, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2 1", onePacket)
			e.wantDatagrams(1, 2, 1)
			c.stays()
			c.stays()
			e.wantFlows("web", 2, 1)
			e.rig.Advance(time.Hour)
			e.wantFlows("web", 2, 0)
			c.again(2)
			c.again(1)
			e.wantFlows("web", 1, 0)
		}},
		{"a flow whose backend is gone has single datagrams from then on", lb.UDP, func(e *env) {
			e.web("3 2 1")
			c := e.open()
			e.web("2 1", onePacket)
			for _, server := range []int{2, 1, 2} {
				c.again(server)
			}
			for n := 1; n <= 3; n++ {
				e.wantFlows("web", n, 0)
			}
		}},
		{"flows are made when the word is gone", lb.UDP, func(e *env) {
			e.web("2 1", onePacket)
			client := e.client()
			e.pick(client, e.vip(1))
			e.web("2 1")
			c := e.openAt(client, e.vip(1))
			e.wantPicks("2")
			c.stays()
			e.wantFlows("web", 1, 1)
		}},
	}
}
