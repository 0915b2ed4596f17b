// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// nodePortCases are about frontends at the machine's own addresses.
func nodePortCases() []testCase {
	return []testCase{
		{"a node port is served at the addresses that admit it", 0, func(e *env) {
			other := e.addr(nodeNet, 99)
			e.rig.AssignLocal(other, true)
			e.around(e.changed("2 1", e.atNode))
			e.wantPicksAt(e.nodePort(), "2 1")
			for _, a := range []netip.Addr{other, e.addr(nodeNet, 98)} {
				p := e.fromClient(e.client(), netip.AddrPortFrom(a, e.nodePort().Port()), SYN)
				e.wants(p, passed(p))
			}
			e.wantPicks("2")
		}},
		{"a node port at a loopback address is not the network's", 0, func(e *env) {
			own := netip.MustParseAddr(map[lb.Family]string{lb.IPv4: "127.0.0.1", lb.IPv6: "::1"}[e.family])
			e.rig.AssignLocal(own, true)
			e.aroundAt(netip.PrefixFrom(e.anyAddr(), 0), e.changed("1", e.atNode))
			p := e.fromClient(e.client(), netip.AddrPortFrom(own, e.nodePort().Port()), SYN)
			e.wants(p, passed(p))
			e.wantPicksAt(e.nodePort(), "1")
		}},
		{"flows of a node port are followed, and counted with the service's", 0, func(e *env) {
			e.around(e.changed("1", e.atNode))
			c := e.openAt(e.client(), e.nodePort())
			c.stays()
			e.wantFlows("web", 1, 1)
		}},
		{"the machine's other ports are its own", 0, func(e *env) {
			e.around(e.changed("1", e.atNode))
			p := e.fromClient(e.client(), netip.AddrPortFrom(e.node(), 22), SYN)
			e.wants(p, passed(p))
			p = e.fromClient(e.client(), netip.AddrPortFrom(e.node(), 80), SYN) // the frontend's port elsewhere
			e.wants(p, passed(p))
		}},
		{"a node port is no VIP of the unspecified address's kind: others' packets pass", 0, func(e *env) {
			e.around(e.changed("1", e.atNode))
			p := e.fromClient(e.client(), netip.AddrPortFrom(e.server(1).Addr(), e.nodePort().Port()), SYN)
			e.wants(p, passed(p))
		}},
		{"the same number of the other protocol is another node port", 0, func(e *env) {
			other := e.service("other", "rr", "3")
			e.atNode(other)
			other.Frontends[0].Protocol = lb.TCP
			if e.proto == lb.TCP {
				other.Frontends[0].Protocol = lb.UDP
			}
			e.around(e.changed("1", e.atNode), other)
			e.wantPicksAt(e.nodePort(), "1 1")
			e.around(other)
			p := e.fromClient(e.client(), e.nodePort(), SYN)
			e.wants(p, passed(p))
		}},
		{"a node port that is gone is not answered, its flows go on", 0, func(e *env) {
			e.around(e.changed("1", e.atNode))
			c := e.openAt(e.client(), e.nodePort())
			e.around(e.changed("1"))
			c.stays()
			p := e.fromClient(e.client(), e.nodePort(), SYN)
			e.wants(p, passed(p))
			e.around()
			c.stays()
		}},
		{"an address that comes serves node ports at once, one that goes does not", 0, func(e *env) {
			e.around(e.changed("1", e.atNode))
			e.rig.AssignLocal(e.node(), false)
			p := e.fromClient(e.client(), e.nodePort(), SYN)
			e.wants(p, passed(p))
			e.rig.AssignLocal(e.node(), true)
			e.wantPicksAt(e.nodePort(), "1")
		}},
		{"a frontend of the machine's address goes before a node port", 0, func(e *env) {
			own := e.service("own", "rr", "3")
			own.Frontends = []lb.Frontend{e.frontend(e.nodePort())}
			e.around(e.changed("1", e.atNode), own)
			e.wantPicksAt(e.nodePort(), "3 3")
		}},
		{"a node port with external policy Local: the client is shown, or nobody is local", 0, func(e *env) {
			local := func(places ...int) *lb.Service {
				return e.changed("2 1", e.atNode, policy(lb.PolicyLocalExternal), masquerade(lb.MasqueradeNode), outside(lb.Local, places...))
			}
			e.around(local(0))
			client := e.client()
			e.beginAt(client, e.nodePort())
			p := e.fromBackend(client, e.server(1), SYN)
			e.wants(p, passed(p))
			e.around(local(0, 1))
			e.refusedAt(e.client(), e.nodePort(), dropped("no_local"))
			if got := e.pick(e.pod(), e.nodePort()); got != "2" && got != "1" {
				e.Errorf("a pod went to %s", got)
			}
		}},
		{"node ports outlive the process", 0, func(e *env) {
			e.around(e.changed("2 1", e.atNode, masquerade(lb.MasqueradeAlways)))
			c, _ := e.openMasqueraded(e.client(), e.nodePort())
			e.restart()
			c.sends(ACK)
			e.wantPicksAt(e.nodePort(), "1")
			e.around(e.changed("2 1", e.atNode, masquerade(lb.MasqueradeAlways)))
			c.sends(ACK)
			e.wantPicksAt(e.nodePort(), "2")
		}},
	}
}

// restrictedCases are about source ranges, and ranges of VIPs.
func restrictedCases() []testCase {
	restricted := func(ranges ...netip.Prefix) change {
		return func(s *lb.Service) {
			s.SourceRanges = ranges
			s.Frontends[0].Restricted = true
		}
	}
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	return []testCase{
		{"a restricted frontend takes flows from its networks only", 0, func(e *env) {
			e.holds(e.web("1", restricted(host(e.host(1)))))
			e.wantPicksOf(e.host(1), "1 1")
			e.refusedAt(e.clientAt(e.host(2)), e.vip(1), dropped("source_range"))
			e.holds(e.web("1", restricted(e.network(clientNet))))
			e.wantPicksOf(e.host(2), "1")
			e.web("1", restricted())
			e.refusedAt(e.clientAt(e.host(1)), e.vip(1), dropped("source_range"))
			e.web("1")
			e.wantPicksOf(e.host(1), "1")
		}},
		{"other frontends of the service take all", 0, func(e *env) {
			svc := e.service("web", "rr", "1", 1, 2)
			restricted(host(e.host(1)))(svc)
			e.apply(svc)
			e.refusedAt(e.clientAt(e.host(2)), e.vip(1), dropped("source_range"))
			e.wantPicksAt(e.vip(2), "1")
		}},
		{"services have networks of their own", 0, func(e *env) {
			shop := e.service("shop", "rr", "2", 2)
			restricted(host(e.host(2)))(shop)
			e.apply(e.changed("1", restricted(host(e.host(1)))), shop)
			e.refusedAt(e.clientAt(e.host(2)), e.vip(1), dropped("source_range"))
			e.refusedAt(e.clientAt(e.host(1)), e.vip(2), dropped("source_range"))
			e.wantPicksOf(e.host(1), "1")
		}},
		{"flows that are there go on", 0, func(e *env) {
			e.web("1")
			c := e.open()
			e.web("1", restricted(host(e.host(1))))
			c.stays()
			e.restart()
			c.stays()
			e.web("1", restricted(host(e.host(1))))
			c.stays()
			e.refusedAt(e.clientAt(e.host(2)), e.vip(1), dropped("source_range"))
		}},
		{"an address of the ranges of VIPs that no service has leads nowhere", 0, func(e *env) {
			e.around(e.changed("1"))
			e.refusedAt(e.client(), e.vip(2), dropped("unallocated"))
			e.rig.AssignLocal(e.vip(2).Addr(), true)
			p := e.fromClient(e.client(), e.vip(2), SYN)
			e.wants(p, passed(p))
			e.rig.AssignLocal(e.vip(2).Addr(), false)
			e.wantPicks("1")
			e.web("1")
			e.wants(p, passed(p))
		}},
		{"flows to a VIP of a removed service go on within the ranges", 0, func(e *env) {
			e.around(e.changed("1"))
			c := e.open()
			e.around()
			c.stays()
			e.refusedAt(e.client(), e.vip(1), dropped("unallocated"))
			e.rig.Advance(time.Hour)
		}},
	}
}
