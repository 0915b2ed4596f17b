// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// anyPortCases are about frontends that have all ports of an address.
func anyPortCases() []testCase {
	return slices.Concat(allPortsCases(), realPortCases(), otherPortCases(), anyPortEditCases())
}

// port is VIP n at another port.
func (e *env) port(n int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(e.vip(n).Addr(), port)
}

// serverAt is server n at another port; 0: the one that the client asked for.
func (e *env) serverAt(n int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(e.server(n).Addr(), port)
}

// anyPort is a service of all ports of VIP 1, to those of its backends.
func (e *env) anyPort(list string, changes ...change) *lb.Service {
	svc := e.realPort(list, changes...)
	for i, b := range svc.Backends {
		svc.Backends[i].Addr = netip.AddrPortFrom(b.Addr.Addr(), 0)
	}
	return svc
}

// realPort is one of all ports of VIP 1, to one port of its backends.
func (e *env) realPort(list string, changes ...change) *lb.Service {
	toAny := func(s *lb.Service) { s.Frontends = []lb.Frontend{e.frontend(e.port(1, 0))} }
	return e.changed(list, slices.Concat([]change{affinity(time.Hour), toAny}, changes)...)
}

// openTo opens a flow that has to go to a server's port.
func (e *env) openTo(client, vip, server netip.AddrPort) *conn {
	e.Helper()
	c := &conn{e: e, client: client, vip: vip, source: client, at: server}
	c.sends(SYN)
	c.replies(SYN | ACK)
	c.sends(ACK)
	return c
}

func allPortsCases() []testCase {
	return []testCase{
		{"each port goes to the same one of a backend", 0, func(e *env) {
			e.holds(e.apply(e.anyPort("2 1")))
			for _, port := range []uint16{1, 80, 81, 8080, 65535} {
				c := e.openTo(e.clientAt(e.host(1)), e.port(1, port), e.serverAt(2, port))
				c.stays()
			}
			e.openTo(e.clientAt(e.host(2)), e.port(1, 21), e.serverAt(1, 21)).stays()
		}},
		{"a client is at one backend with all ports", 0, func(e *env) {
			e.apply(e.anyPort("3 2 1"))
			for n, server := range []int{3, 2, 1, 3} {
				for _, port := range []uint16{20, 21, 50000} {
					e.openTo(e.clientAt(e.host(n)), e.port(1, port), e.serverAt(server, port))
				}
			}
		}},
		{"one client port has a flow at each port", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			client := e.client()
			a := e.openTo(client, e.port(1, 20), e.serverAt(1, 20))
			b := e.openTo(client, e.port(1, 21), e.serverAt(1, 21))
			a.stays()
			b.stays()
		}},
		{"all ports count at one backend", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			for _, port := range []uint16{20, 21, 50000} {
				e.openTo(e.client(), e.port(1, port), e.serverAt(1, port))
			}
			want := dataplane.BackendCounters{Connections: 3, InPackets: 6, InBytes: 6 * e.size(0), OutPackets: 3, OutBytes: 3 * e.size(0)}
			if e.proto == lb.TCP {
				want.Active = 3
			} else {
				want.Inactive = 3
			}
			id := lb.BackendID{Service: e.id("web"), Addr: e.serverAt(1, 0)}
			if got := e.counters().Backends[id]; got != want {
				e.Errorf("counters %+v, want %+v", got, want)
			}
			e.rig.Advance(time.Hour)
			want.Active, want.Inactive = 0, 0
			if got := e.counters().Backends[id]; got != want {
				e.Errorf("counters %+v, want %+v", got, want)
			}
		}},
		{"a backend's packets of no flow pass untouched", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			c := e.openTo(e.client(), e.port(1, 21), e.serverAt(1, 21))
			for _, p := range []Packet{
				e.fromBackend(e.serverAt(1, 22), c.client, ACK),
				e.fromBackend(e.serverAt(1, 21), e.client(), ACK),
				e.fromClient(e.client(), e.serverAt(1, 21), SYN),
			} {
				e.wants(p, passed(p))
			}
		}},
		{"the client's own connection to any port of a backend keeps apart", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			client := e.client()
			p := e.fromClient(client, e.serverAt(1, 21), SYN)
			e.wants(p, passed(p))
			flow := e.resourcedTo(client, e.port(1, 21), e.serverAt(1, 21))
			flow.replies(SYN | ACK)
			flow.stays()
			back := e.fromBackend(e.serverAt(1, 21), client, SYN|ACK)
			e.wants(back, passed(back))
		}},
		{"TCP of no connection is reset", lb.TCP, func(e *env) {
			e.apply(e.anyPort("1"))
			e.wants(e.fromClient(e.client(), e.port(1, 21), ACK), refused("no_flow", Reset))
			e.wants(e.fromClient(e.client(), e.port(1, 21), RST), dropped("no_flow"))
		}},
		{"a packet to any of its ports that is found at egress is dropped", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			for _, port := range []uint16{1, 80, 65535} {
				e.wants(e.fromBackend(e.client(), e.port(1, port), SYN), dropped("untranslated"))
			}
			p := e.fromBackend(e.client(), e.port(2, 80), SYN)
			e.wants(p, passed(p))
		}},
	}
}

// resourcedTo begins a flow at a server's port whose client port is not free there.
func (e *env) resourcedTo(client, vip, server netip.AddrPort) *conn {
	e.Helper()
	got := e.send(e.fromClient(client, vip, SYN))
	if got.Verdict != lb.Forward || got.Src.Addr() != client.Addr() || got.Src == client || got.Dst != server {
		e.Fatalf("first packet %s -> %s: %+v, want it at %s, from another port of the client", client, vip, got, server)
	}
	return &conn{e: e, client: client, vip: vip, source: got.Src, at: server}
}

// realPortCases are about any port of a VIP and one of the backends.
func realPortCases() []testCase {
	return []testCase{
		{"all ports lead to the one that the backend has", 0, func(e *env) {
			e.holds(e.apply(e.realPort("2 1")))
			for _, port := range []uint16{1, 80, 65535} {
				c := e.openAt(e.clientAt(e.host(1)), e.port(1, port))
				c.stays()
				if c.server != 2 {
					e.Errorf("port %d went to server %d, want 2", port, c.server)
				}
			}
			e.wantFlows("web", 2, 3)
		}},
		{"one client port at two ports of the VIP is two to the backend", 0, func(e *env) {
			e.apply(e.realPort("1"))
			client := e.client()
			a := e.openAt(client, e.port(1, 20))
			b := e.resourcedAt(client, e.port(1, 21))
			b.replies(SYN | ACK)
			a.stays()
			b.stays()
			e.wantFlows("web", 1, 2)
		}},
		{"backends of either kind stand side by side", 0, func(e *env) {
			svc := e.anyPort("2 1")
			svc.Backends[1].Addr = e.server(1)
			e.holds(e.apply(svc))
			e.openTo(e.clientAt(e.host(1)), e.port(1, 21), e.serverAt(2, 21)).stays()
			e.openTo(e.clientAt(e.host(2)), e.port(1, 21), e.server(1)).stays()
		}},
		{"a masqueraded client of any port is led back", 0, func(e *env) {
			e.rig.MasqueradeWith(e.family, e.node())
			e.apply(e.anyPort("1", func(s *lb.Service) { s.SetMasquerade(lb.MasqueradeAlways) }))
			c := &conn{e: e, client: e.client(), vip: e.port(1, 21), at: e.serverAt(1, 21)}
			c.source = c.client
			c.sends(SYN)
			c.comes(c.leaves(SYN), SYN|ACK)
			c.sends(ACK)
			c.leaves(ACK)
		}},
	}
}

// otherPortCases are about other services at the same address.
func otherPortCases() []testCase {
	return []testCase{
		{"a service that has a port of its own wins", 0, func(e *env) {
			e.apply(e.anyPort("1"), e.service("shop", "rr", "4 3", 1))
			e.wantPicksAt(e.vip(1), "4 3")
			e.openTo(e.client(), e.port(1, 81), e.serverAt(1, 81))
			e.wantFlows("shop", 4, 1)
		}},
		{"a port comes to another service and back, flows stay", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			a := e.openTo(e.client(), e.vip(1), e.serverAt(1, 80))
			e.apply(e.anyPort("1"), e.service("shop", "rr", "4", 1))
			b := e.openAt(e.client(), e.vip(1))
			if b.server != 4 {
				e.Errorf("a new flow went to %d, want 4", b.server)
			}
			a.stays()
			e.apply(e.anyPort("1"))
			a.stays()
			e.openTo(e.client(), e.vip(1), e.serverAt(1, 80))
			if e.proto == lb.TCP {
				b.stays()
			} else { // its service is gone, and this one would have it
				b.at = e.serverAt(1, 80)
				b.sends(0)
			}
		}},
		{"the other protocol's ports are unknown, another address is no VIP", 0, func(e *env) {
			e.apply(e.anyPort("1"))
			p := e.fromClient(e.client(), e.vip(1), 0)
			p.Protocol, p.Flags = lb.UDP, 0
			if e.proto == lb.UDP {
				p.Protocol, p.Flags = lb.TCP, SYN
			}
			e.wants(p, refused("unknown_port", Unreachable))
			p = e.fromClient(e.client(), e.vip(2), SYN)
			e.wants(p, passed(p))
		}},
		{"all ports and one of them are one service", 0, func(e *env) {
			svc := e.realPort("2 1")
			svc.Frontends = append(svc.Frontends, e.frontend(e.vip(1)), e.frontend(e.vip(2)))
			e.holds(e.apply(svc))
			for _, vip := range []netip.AddrPort{e.port(1, 21), e.vip(1), e.vip(2)} {
				if c := e.openAt(e.clientAt(e.host(1)), vip); c.server != 2 {
					e.Errorf("%s went to %d, want 2", vip, c.server)
				}
			}
			e.wants(e.fromClient(e.client(), e.port(2, 81), SYN), refused("unknown_port", Unreachable))
		}},
	}
}

// anyPortEditCases are about changes of such services.
func anyPortEditCases() []testCase {
	return []testCase{
		{"without the frontend of all ports they are unknown, or no VIP's", 0, func(e *env) {
			e.apply(e.realPort("1"))
			c := e.openAt(e.client(), e.port(1, 21))
			p := e.fromClient(e.client(), e.port(1, 22), SYN)
			e.apply(e.service("web", "rr", "1", 1))
			e.wants(p, refused("unknown_port", Unreachable))
			c.stays()
			e.apply(e.service("web", "rr", "1", 2))
			e.wants(p, passed(p))
			c.stays()
		}},
		{"flows of a removed backend", 0, func(e *env) {
			e.apply(e.anyPort("2 1"))
			client := e.clientAt(e.host(1))
			c := e.openTo(client, e.port(1, 21), e.serverAt(2, 21))
			e.apply(e.anyPort("1"))
			if e.proto == lb.UDP {
				c.at = e.serverAt(1, 21)
			}
			c.stays()
			e.openTo(e.clientAt(e.host(1)), e.port(1, 22), e.serverAt(1, 22)).stays()
			e.apply(e.anyPort("2 1", lost(lb.LostDrop)))
			e.apply(e.anyPort("3", lost(lb.LostDrop)))
			e.wants(e.fromClient(client, c.vip, ACK), dropped("backend_gone"))
		}},
		{"a connection's SYN picks afresh with its port", lb.TCP, func(e *env) {
			e.apply(e.anyPort("2 1"))
			c := e.openTo(e.client(), e.port(1, 21), e.serverAt(2, 21))
			c.closes()
			e.apply(e.anyPort("2:0 1"))
			c = e.openTo(c.client, c.vip, e.serverAt(1, 21))
			c.stays()
		}},
		{"single datagrams go to the port that was asked for", lb.UDP, func(e *env) {
			e.apply(e.anyPort("1", onePacket))
			client := e.client()
			for _, port := range []uint16{53, 54, 53} {
				e.wants(e.fromClient(client, e.port(1, port), 0), Outcome{Verdict: lb.Forward, Src: client, Dst: e.serverAt(1, port)})
				p := e.fromBackend(e.serverAt(1, port), client, 0)
				e.wants(p, passed(p))
			}
		}},
	}
}
