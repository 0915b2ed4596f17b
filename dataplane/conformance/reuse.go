// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// reuseCases are about tuples that come again.
func reuseCases() []testCase {
	return []testCase{
		{"a SYN in TIME_WAIT picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			c.closes()
			e.wantLoad("web", 2, 0, 1)
			c.again(1)
			c.replies(SYN | ACK)
			c.stays()
			e.wantLoad("web", 2, 0, 0)
			e.wantLoad("web", 1, 1, 0)
		}},
		{"a SYN after the client's reset picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			c.sends(RST)
			c.again(1)
			e.wantLoad("web", 2, 0, 0)
		}},
		{"a SYN after the server's refusal picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.begin()
			c.replies(RST | ACK)
			c.again(1)
			e.wantLoad("web", 2, 0, 0)
		}},
		{"a SYN while the server has not closed stays", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			c.sends(FIN | ACK)
			c.sends(SYN)
			c.replies(SYN | ACK)
			e.wantLoad("web", 2, 1, 0)
			e.wantPicks("1")
		}},
		{"a finished connection may come to its backend again", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			c.closes()
			c.again(1)
			c.replies(SYN | ACK)
			c.stays()
			e.wantLoad("web", 1, 1, 0)
		}},
	}
}

// afterwardsCases are about what a flow that is over leaves behind.
func afterwardsCases() []testCase {
	return []testCase{
		{"the former backend's late packets are not the new connection's", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			c.closes()
			c.again(1)
			p := e.fromBackend(e.server(2), c.client, RST)
			e.wants(p, passed(p))
			c.replies(SYN | ACK)
		}},
		{"a SYN on a finished tuple is refused by an empty pool", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			c.closes()
			e.web("1:0")
			e.wants(e.fromClient(c.client, c.vip, SYN), refused("empty_pool", Unreachable))
			e.wantLoad("web", 1, 0, 0)
		}},
		{"an expired flow's tuple picks afresh", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.rig.Advance(time.Hour)
			c.again(1)
			c.replies(SYN | ACK)
			c.stays()
			e.wantFlows("web", 2, 0)
			e.wantFlows("web", 1, 1)
		}},
		{"an expired connection is no more", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			p := e.fromBackend(e.server(1), c.client, ACK)
			e.wants(p, passed(p))
		}},
	}
}

// replyTakenCases are about one client port, two VIPs and the same backend.
func replyTakenCases() []testCase {
	return []testCase{
		{"a reply tuple in use gives another VIP's flow another port", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "1", 2))
			client := e.client()
			a, b := e.openAt(client, e.vip(1)), e.resourcedAt(client, e.vip(2))
			a.stays()
			b.replies(SYN | ACK)
			b.stays()
			a.stays()
			e.wantFlows("web", 1, 1)
			e.wantFlows("shop", 1, 1)
			e.openAt(e.client(), e.vip(2)).stays()
		}},
		{"a reply tuple in use gives the same service's other VIP another port", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1, 2))
			client := e.client()
			a := e.openAt(client, e.vip(2))
			b := e.resourcedAt(client, e.vip(1))
			b.stays()
			a.stays()
			e.wantFlows("web", 1, 2)
		}},
		{"many VIPs of one client port and one backend keep apart", 0, func(e *env) {
			const n = 40
			var vips []int
			for i := range n {
				vips = append(vips, i+1)
			}
			e.apply(e.service("web", "rr", "1", vips...))
			client := e.client()
			conns := []*conn{e.openAt(client, e.vip(1))}
			for i := 2; i <= n; i++ {
				conns = append(conns, e.resourcedAt(client, e.vip(i)))
			}
			for _, c := range conns {
				c.stays()
			}
		}},
		{"a connection with another port closes, and its tuple begins again", lb.TCP, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1, 2))
			client := e.client()
			a := e.openAt(client, e.vip(1))
			for range 3 {
				b := e.resourcedAt(client, e.vip(2))
				b.replies(SYN | ACK)
				b.stays()
				b.closes()
			}
			a.stays()
			e.wantLoad("web", 1, 1, 1)
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			e.wantLoad("web", 1, 0, 0)
		}},
		{"a reply tuple is free when its flow has expired", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "1", 2))
			client := e.client()
			e.openAt(client, e.vip(1))
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			e.openAt(client, e.vip(2)).stays()
		}},
	}
}
