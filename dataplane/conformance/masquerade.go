// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// node is the machine's own address.
func (e *env) node() netip.Addr { return e.addr(nodeNet, 1) }

// masqueraded applies the one service of most cases, masqueraded.
func (e *env) masqueraded(list string) {
	e.Helper()
	e.rig.MasqueradeWith(e.family, e.node())
	svc := e.service("web", "rr", list, 1)
	svc.SetMasquerade(lb.MasqueradeAlways)
	e.apply(svc)
}

// leaves wants the client's packet, on its way to the server, to carry the
// node's address, and returns it with the port that stands for the client.
func (c *conn) leaves(f Flag) netip.AddrPort {
	c.e.Helper()
	got := c.e.send(c.e.fromBackend(c.source, c.backend(), f))
	if got.Verdict != lb.Forward || got.Src.Addr() != c.e.node() || got.Dst != c.backend() {
		c.e.Fatalf("%s -> %s leaves as %+v, want it from %s", c.source, c.backend(), got, c.e.node())
	}
	return got.Src
}

// comes wants a reply to the node to go on to the client, as the VIP's.
func (c *conn) comes(masq netip.AddrPort, f Flag) {
	c.e.Helper()
	c.e.wants(c.e.fromClient(c.backend(), masq, f), Outcome{Verdict: lb.Forward, Src: c.backend(), Dst: c.source})
	c.replies(f)
}

// masqueradeCases are about services whose backends see this machine.
func masqueradeCases() []testCase {
	return []testCase{
		{"a masqueraded packet leaves from the node, its reply finds the client", 0, func(e *env) {
			e.masqueraded("1")
			c := e.begin()
			masq := c.leaves(SYN)
			c.comes(masq, SYN|ACK)
			for range 3 {
				c.sends(ACK)
				if again := c.leaves(ACK); again != masq {
					e.Errorf("leaves from %s, before from %s", again, masq)
				}
				c.comes(masq, ACK)
			}
			e.wantFlows("web", 1, 1)
		}},
		{"clients of one port are told apart", 0, func(e *env) {
			e.masqueraded("1")
			seen := make(map[netip.AddrPort]*conn)
			for range 20 {
				first := e.client()
				c := e.beginAt(netip.AddrPortFrom(first.Addr().Next(), 2000), e.vip(1))
				seen[c.leaves(SYN)] = c
				e.clients += 999 // another address
			}
			if len(seen) != 20 {
				e.Errorf("%d ports for 20 clients", len(seen))
			}
		}},
		{"a packet to a masqueraded backend that is no flow's passes", 0, func(e *env) {
			e.masqueraded("1")
			e.begin().leaves(SYN)
			p := e.fromBackend(e.client(), e.server(1), SYN)
			e.wants(p, passed(p))
			p = e.fromClient(e.server(1), netip.AddrPortFrom(e.node(), 7), ACK)
			e.wants(p, passed(p))
		}},
		{"without an address of the machine nothing leaves", 0, func(e *env) {
			e.masqueraded("1")
			e.rig.MasqueradeWith(e.family, netip.Addr{})
			c := e.begin()
			e.wants(e.fromBackend(c.client, e.server(1), SYN), dropped("no_address"))
		}},
		{"a masqueraded flow ends with all of its entries", 0, func(e *env) {
			e.masqueraded("1")
			c := e.begin()
			masq := c.leaves(SYN)
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			e.wantFlows("web", 1, 0)
			p := e.fromClient(e.server(1), masq, ACK)
			e.wants(p, passed(p))
			c = e.beginAt(c.client, c.vip)
			c.comes(c.leaves(SYN), SYN|ACK)
		}},
		{"what is masqueraded stays so when the service no longer is", 0, func(e *env) {
			e.masqueraded("1")
			c := e.begin()
			masq := c.leaves(SYN)
			e.web("1")
			c.comes(masq, SYN|ACK)
			c.sends(ACK)
			if again := c.leaves(ACK); again != masq {
				e.Errorf("leaves from %s, before from %s", again, masq)
			}
			other := e.begin()
			p := e.fromBackend(other.client, e.server(1), SYN)
			e.wants(p, passed(p))
		}},
		{"whether a service masquerades is held, through changes and a restart", 0, func(e *env) {
			svc := e.service("web", "rr", "1", 1)
			svc.SetMasquerade(lb.MasqueradeAlways)
			e.holds(e.apply(svc))
			e.holds(e.apply(e.service("web", "rr", "1", 1)))
			again := *svc
			snap := e.apply(&again)
			e.restart()
			e.holds(snap)
		}},
	}
}

// hairpinCases are about a client that is the backend.
func hairpinCases() []testCase {
	return []testCase{
		{"a client that is the backend meets the node", 0, func(e *env) {
			e.rig.MasqueradeWith(e.family, e.node())
			e.web("1")
			client := netip.AddrPortFrom(e.server(1).Addr(), 4000)
			c := e.beginAt(client, e.vip(1))
			masq := c.leaves(SYN)
			c.comes(masq, SYN|ACK)
			c.sends(ACK)
			c.leaves(ACK)
			e.wantFlows("web", 1, 1)
		}},
	}
}

// directCases are about connections to a backend without a VIP, from a client
// port that a flow through a VIP has too.
func directCases() []testCase {
	return []testCase{
		{"a flow first: the client's own connection gets another port", 0, func(e *env) {
			e.web("1")
			client := e.client()
			flow := e.openAt(client, e.vip(1))
			own := e.resourcedAt(client, e.server(1))
			own.replies(SYN | ACK)
			own.stays()
			flow.stays()
			e.wantFlows("web", 1, 1)
		}},
		{"the client's own connection first: the flow gets another port", 0, func(e *env) {
			e.web("1")
			client := e.client()
			p := e.fromClient(client, e.server(1), SYN)
			e.wants(p, passed(p))
			back := e.fromBackend(e.server(1), client, SYN|ACK)
			e.wants(back, passed(back))
			flow := e.resourcedAt(client, e.vip(1))
			flow.replies(SYN | ACK)
			flow.stays()
			e.wants(back, passed(back))
			p.Flags = e.flags(ACK)
			e.wants(p, passed(p))
		}},
		{"a flow without an answer yields to the client's own connection", 0, func(e *env) {
			e.web("1")
			client := e.client()
			e.beginAt(client, e.vip(1))
			p := e.fromClient(client, e.server(1), SYN)
			e.wants(p, passed(p))
			back := e.fromBackend(e.server(1), client, SYN|ACK)
			e.wants(back, passed(back))
			e.wantFlows("web", 1, 0)
		}},
		{"a closed flow yields to the client's own connection", lb.TCP, func(e *env) {
			e.web("1")
			client := e.client()
			e.openAt(client, e.vip(1)).closes()
			p := e.fromClient(client, e.server(1), SYN)
			e.wants(p, passed(p))
			back := e.fromBackend(e.server(1), client, SYN|ACK)
			e.wants(back, passed(back))
		}},
		{"the client's own connection closes and begins again", lb.TCP, func(e *env) {
			e.web("1")
			client := e.client()
			flow := e.openAt(client, e.vip(1))
			for range 3 {
				own := e.resourcedAt(client, e.server(1))
				own.replies(SYN | ACK)
				own.stays()
				own.closes()
			}
			flow.stays()
		}},
	}
}

// besideCases are about several flows of one client port at one backend.
func besideCases() []testCase {
	return []testCase{
		{"a masqueraded flow first: the client's own connection keeps out of its way", 0, func(e *env) {
			e.masqueraded("1")
			client := e.client()
			flow, masq := e.openMasqueraded(client, e.vip(1))
			own := e.resourcedAt(client, e.server(1))
			p := e.fromBackend(own.source, e.server(1), SYN)
			e.wants(p, passed(p))
			own.replies(SYN | ACK)
			own.stays()
			if again := flow.leaves(ACK); again != masq {
				e.Errorf("leaves from %s, before from %s", again, masq)
			}
			flow.comes(masq, ACK)
			e.wantFlows("web", 1, 1)
		}},
		{"the client's own connection stays when the masqueraded flow begins anew", lb.TCP, func(e *env) {
			e.masqueraded("1")
			client := e.client()
			flow, _ := e.openMasqueraded(client, e.vip(1))
			own := e.resourcedAt(client, e.server(1))
			own.replies(SYN | ACK)
			flow.closes()
			flow, masq := e.openMasqueraded(client, e.vip(1))
			own.stays()
			flow.comes(masq, ACK)
			p := e.fromBackend(own.source, e.server(1), ACK)
			e.wants(p, passed(p))
		}},
		{"the client's own connection first: the flow is masqueraded from its other port", 0, func(e *env) {
			e.masqueraded("1")
			client := e.client()
			p := e.fromClient(client, e.server(1), SYN)
			e.wants(p, passed(p))
			flow := e.resourcedAt(client, e.vip(1))
			flow.comes(flow.leaves(SYN), SYN|ACK)
			p = e.fromBackend(client, e.server(1), ACK)
			e.wants(p, passed(p))
		}},
		{"a masqueraded client at two VIPs of one backend", 0, func(e *env) {
			e.rig.MasqueradeWith(e.family, e.node())
			svc := e.service("web", "rr", "1", 1, 2)
			svc.SetMasquerade(lb.MasqueradeAlways)
			e.apply(svc)
			client := e.client()
			one, first := e.openMasqueraded(client, e.vip(1))
			two := e.resourcedAt(client, e.vip(2))
			second := two.leaves(SYN)
			two.comes(second, SYN|ACK)
			if first == second {
				e.Errorf("both leave from %s", first)
			}
			one.comes(first, ACK)
			two.comes(second, ACK)
			e.wantFlows("web", 1, 2)
		}},
		{"replies to a client that is a backend too come in as they are", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			client := netip.AddrPortFrom(e.server(2).Addr(), 4000)
			flow := e.openAt(client, e.vip(1))
			own := e.resourcedAt(client, e.server(1))
			for _, c := range []*conn{own, flow} {
				p := e.fromClient(e.server(1), c.source, SYN|ACK)
				e.wants(p, passed(p))
				c.replies(SYN | ACK)
				c.stays()
			}
		}},
	}
}

// openMasqueraded begins a flow and lets it be answered.
func (e *env) openMasqueraded(client, vip netip.AddrPort) (*conn, netip.AddrPort) {
	e.Helper()
	c := e.beginAt(client, vip)
	masq := c.leaves(SYN)
	c.comes(masq, SYN|ACK)
	c.sends(ACK)
	return c, masq
}
