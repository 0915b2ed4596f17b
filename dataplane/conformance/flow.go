// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// flowCases are about flows whose services do not change.
func flowCases() []testCase {
	return []testCase{
		{"the first packet goes to a backend, from the real client", 0, func(e *env) {
			e.web("1")
			client := e.client()
			e.wants(e.fromClient(client, e.vip(1), SYN), Outcome{Verdict: lb.Forward, Src: client, Dst: e.server(1)})
		}},
		{"a reply comes from the VIP", 0, func(e *env) {
			e.web("1")
			c := e.begin()
			e.wants(e.fromBackend(e.server(1), c.client, SYN|ACK), Outcome{Verdict: lb.Forward, Src: e.vip(1), Dst: c.client})
		}},
		{"an established flow stays with its backend while others are picked", 0, func(e *env) {
			e.web("3 2 1")
			c := e.open()
			e.wantPicks("2 1 3 2")
			c.stays()
			e.wantPicks("1")
			c.stays()
		}},
		{"a retransmitted SYN stays", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.begin()
			c.sends(SYN)
			c.replies(SYN | ACK)
			c.sends(SYN)
			e.wantPicks("1")
			e.wantFlows("web", 2, 1)
		}},
		{"a SYN on an established connection stays", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			c.sends(SYN)
			c.stays()
			e.wantPicks("1")
		}},
		{"payload of any length passes", 0, func(e *env) {
			e.web("1")
			c := e.open()
			for _, n := range []int{1, 2, 3, 64, 1399, 1400} {
				p := e.fromClient(c.client, c.vip, ACK)
				p.Payload = make([]byte, n)
				e.wants(p, Outcome{Verdict: lb.Forward, Src: c.client, Dst: e.server(1)})
				p = e.fromBackend(e.server(1), c.client, ACK)
				p.Payload = make([]byte, n)
				e.wants(p, Outcome{Verdict: lb.Forward, Src: c.vip, Dst: c.client})
			}
		}},
	}
}

// neighbourCases are about flows beside each other.
func neighbourCases() []testCase {
	return []testCase{
		{"clients that share a port or an address have their own flows", 0, func(e *env) {
			e.web("3 2 1")
			client := e.client()
			a := e.beginAt(client, e.vip(1))
			b := e.beginAt(netip.AddrPortFrom(client.Addr(), client.Port()+100), e.vip(1))
			c := e.beginAt(netip.AddrPortFrom(client.Addr().Next(), client.Port()), e.vip(1))
			if a.server != 3 || b.server != 2 || c.server != 1 {
				e.Errorf("went to %d, %d, %d, want 3, 2, 1", a.server, b.server, c.server)
			}
			a.stays()
			b.stays()
			c.stays()
		}},
		{"one client port at two VIPs has two flows", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			client := e.client()
			a, b := e.openAt(client, e.vip(1)), e.openAt(client, e.vip(2))
			a.stays()
			b.stays()
		}},
		{"replies of a backend of two services come from the right VIP", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "1", 2))
			a, b := e.openAt(e.client(), e.vip(1)), e.openAt(e.client(), e.vip(2))
			a.stays()
			b.stays()
			e.wantFlows("web", 1, 1)
			e.wantFlows("shop", 1, 1)
		}},
	}
}

// othersCases are about packets that are none of ours.
func othersCases() []testCase {
	return []testCase{
		{"a backend's packets of no flow pass untouched", 0, func(e *env) {
			e.web("1")
			c := e.open()
			for _, p := range []Packet{
				e.fromBackend(e.server(1), e.client(), SYN|ACK),
				e.fromBackend(e.server(2), c.client, ACK),
				e.fromBackend(netip.AddrPortFrom(e.server(1).Addr(), 9), c.client, ACK),
			} {
				e.wants(p, passed(p))
			}
		}},
		{"a packet to no VIP passes untouched", 0, func(e *env) {
			e.web("1")
			e.open()
			for _, dst := range []netip.AddrPort{e.vip(2), e.server(1)} {
				for _, p := range []Packet{
					e.fromClient(e.client(), dst, SYN), e.fromBackend(e.client(), dst, SYN),
				} {
					e.wants(p, passed(p))
				}
			}
			e.wantFlows("web", 1, 1)
		}},
		{"a VIP that is the machine's own is served", 0, func(e *env) {
			e.rig.AssignLocal(e.vip(1).Addr(), true)
			e.web("1")
			e.open().stays()
		}},
	}
}
