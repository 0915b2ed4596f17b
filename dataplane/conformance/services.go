// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// serviceCases are about services beside each other, and their coming and
// going.
func serviceCases() []testCase {
	return []testCase{
		{"two services do not mix", 0, func(e *env) {
			e.apply(e.service("web", "rr", "2 1", 1), e.service("shop", "rr", "4 3", 2))
			e.wantPicksAt(e.vip(1), "2")
			e.wantPicksAt(e.vip(2), "4 3")
			e.wantPicksAt(e.vip(1), "1 2")
			e.wantPicksAt(e.vip(2), "4")
			e.wantFlows("web", 2, 2)
			e.wantFlows("shop", 4, 2)
		}},
		{"services of the same backends do not mix", 0, func(e *env) {
			e.apply(e.service("web", "rr", "2 1", 1), e.service("shop", "rr", "2 1", 2))
			e.wantPicksAt(e.vip(1), "2 1 2")
			e.wantPicksAt(e.vip(2), "2 1")
			e.wantFlows("web", 2, 2)
			e.wantFlows("shop", 2, 1)
		}},
		{"a change of one service leaves the others alone", 0, func(e *env) {
			shop := e.service("shop", "wrr", "4:2 3:1", 2)
			e.apply(e.service("web", "rr", "2 1", 1), shop)
			c := e.openAt(e.client(), e.vip(2))
			for _, list := range []string{"3 2 1", "", "1", "2 1"} {
				e.apply(e.service("web", "rr", list, 1), shop)
				c.stays()
			}
			e.wantPicksAt(e.vip(2), "3 4 4 3")
			e.apply(shop)
			c.stays()
			e.wantPicksAt(e.vip(2), "4")
			e.wantFlows("shop", 4, 4)
		}},
	}
}

// goneCases are about services that are removed.
func goneCases() []testCase {
	return []testCase{
		{"flows of a removed service go on to their end", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.applySnapshot(nil)
			c.stays()
			p := e.fromClient(e.client(), e.vip(1), SYN)
			e.wants(p, passed(p))
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			p = e.fromClient(c.client, c.vip, ACK)
			e.wants(p, passed(p))
		}},
		{"flows go on where only another port of the VIP is left", 0, func(e *env) {
			other := e.service("other", "rr", "3")
			other.Frontends = []lb.Frontend{e.frontend(e.unknown())}
			e.apply(e.service("web", "rr", "2 1", 1), other)
			c := e.open()
			e.apply(other)
			c.stays()
			e.wants(e.fromClient(e.client(), e.vip(1), SYN), refused("unknown_port", Unreachable))
		}},
		{"a SYN on the finished connection of a removed service is no longer ours", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			c.closes()
			e.applySnapshot(nil)
			p := e.fromClient(c.client, c.vip, SYN)
			e.wants(p, passed(p))
		}},
		{"a service that is back finds its flows", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.applySnapshot(nil)
			e.web("2 1")
			c.stays()
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 0)
		}},
	}
}

// moveCases are about names and VIPs that change hands.
func moveCases() []testCase {
	return []testCase{
		{"a new name is another service, others are untouched", 0, func(e *env) {
			shop := e.service("shop", "rr", "2 1", 2)
			e.apply(e.service("web", "rr", "2 1", 1), shop)
			c, other := e.open(), e.openAt(e.client(), e.vip(2))
			e.wantPicks("1")
			e.holds(e.apply(e.service("www", "rr", "2 1", 1), shop))
			e.wantPicks("2 1")
			e.wantFlows("www", 2, 1)
			if e.proto == lb.TCP {
				c.stays()
			} else {
				c.again(2)
				c.stays()
				e.wantFlows("www", 2, 2)
			}
			other.stays()
			e.wantFlows("shop", 2, 1)
			e.wantPicksAt(e.vip(2), "1")
		}},
		{"a VIP that moves to another service takes no flow along", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			c := e.open()
			e.holds(e.apply(e.service("web", "rr", "1", 3), e.service("shop", "rr", "2", 1, 2)))
			e.wantPicks("2 2")
			c.stays()
			e.wantFlows("web", 1, 1)
			e.wantFlows("shop", 2, 2)
			e.wantPicksAt(e.vip(3), "1")
		}},
	}
}

// handoverCases are about VIPs that one service gives to the other.
func handoverCases() []testCase {
	return []testCase{
		{"a VIP whose service is gone serves the next one's", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			c := e.open()
			e.holds(e.apply(e.service("shop", "rr", "2", 1, 2)))
			if e.proto == lb.TCP {
				c.stays()
			} else {
				c.again(2)
				c.stays()
			}
			e.wantPicks("2")
		}},
		{"two services exchange their VIPs", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			a, b := e.open(), e.openAt(e.client(), e.vip(2))
			e.holds(e.apply(e.service("web", "rr", "1", 2), e.service("shop", "rr", "2", 1)))
			e.wantPicksAt(e.vip(1), "2")
			e.wantPicksAt(e.vip(2), "1")
			a.stays()
			b.stays()
		}},
	}
}
