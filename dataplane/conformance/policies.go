// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// node is an address of the machine at which node ports are served, nodePort one
// that a service has.
func (e *env) nodePort() netip.AddrPort { return netip.AddrPortFrom(e.node(), 30080) }

// pod is an address of a pod of the machine.
func (e *env) pod() netip.AddrPort { return e.clientAt(e.addr(podNet, 1)) }

const nodeNet, podNet = 20, 52

// around applies services on a machine with one address, which serves node ports,
// and pods.
func (e *env) around(services ...*lb.Service) {
	e.Helper()
	e.aroundAt(netip.PrefixFrom(e.node(), e.family.Bits()), services...)
}

// aroundAt is around, with node ports at other addresses.
func (e *env) aroundAt(ports netip.Prefix, services ...*lb.Service) {
	e.Helper()
	e.rig.MasqueradeWith(e.family, e.node())
	e.rig.AssignLocal(e.node(), true)
	e.applySnapshot(e.snapshot(services...).WithNode(lb.Node{
		NodePorts:     []netip.Prefix{ports},
		Pods:          []netip.Prefix{e.network(podNet)},
		ServiceRanges: []netip.Prefix{e.network(vipNet)},
	}))
}

// network is all addresses of one net.
func (e *env) network(net byte) netip.Prefix {
	bits := 16
	if e.family == lb.IPv6 {
		bits = 48
	}
	p, err := e.addr(net, 0).Prefix(bits)
	if err != nil {
		e.Fatal(err)
	}
	return p
}

// atNode serves at a node port too.
func (e *env) atNode(s *lb.Service) {
	s.Frontends = append(s.Frontends, lb.Frontend{Addr: netip.AddrPortFrom(e.anyAddr(), e.nodePort().Port()), Protocol: e.proto})
}

func (e *env) anyAddr() netip.Addr {
	if e.family == lb.IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// all changes each frontend.
func all(f func(*lb.Frontend)) change {
	return func(s *lb.Service) {
		for i := range s.Frontends {
			f(&s.Frontends[i])
		}
	}
}

func policy(p lb.Policy) change { return all(func(f *lb.Frontend) { f.Policy = p }) }

func masquerade(m lb.Masquerade) change { return all(func(f *lb.Frontend) { f.Masquerade = m }) }

// outside takes servers, by their place in the list, out of pools.
func outside(p lb.Pools, places ...int) change {
	return func(s *lb.Service) {
		for _, i := range places {
			s.Backends[i].Outside |= p
		}
	}
}

// refused sends a new flow's first packet, which nobody takes.
func (e *env) refusedAt(client, vip netip.AddrPort, want Outcome) {
	e.Helper()
	e.wants(e.fromClient(client, vip, SYN), want)
}

// poolCases are about a service's two pools, and who picks from which.
func poolCases() []testCase {
	return []testCase{
		{"each pool has its own backends and its own turn", 0, func(e *env) {
			svc := e.service("web", "rr", "4 3 2 1", 1, 2)
			outside(lb.Local, 0, 1)(svc)
			outside(lb.Cluster, 3)(svc)
			svc.Frontends[1].Policy = lb.PolicyLocal
			e.holds(e.apply(svc))
			e.wantPicksAt(e.vip(1), "4 3")
			e.wantPicksAt(e.vip(2), "2 1 2")
			e.wantPicksAt(e.vip(1), "2 4")
			e.wantFlows("web", 2, 3)
		}},
		{"every scheduler picks from the local pool alone", 0, func(e *env) {
			for _, name := range []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh"} {
				e.web("3 2 1", scheduler(name, 0), policy(lb.PolicyLocal), outside(lb.Local, 0, 2))
				e.wantPicks("2 2 2 2")
			}
		}},
		{"an empty local pool drops if others have backends, and refuses if nobody has", 0, func(e *env) {
			e.web("2 1", policy(lb.PolicyLocal), outside(lb.Local, 0, 1))
			e.refusedAt(e.client(), e.vip(1), dropped("no_local"))
			e.web("", policy(lb.PolicyLocal))
			e.refusedAt(e.client(), e.vip(1), refused("empty_pool", Unreachable))
			e.web("2 1", policy(lb.PolicyLocal), outside(lb.Local|lb.Cluster, 0, 1))
			e.refusedAt(e.client(), e.vip(1), refused("empty_pool", Unreachable))
			e.web("2 1", policy(lb.PolicyLocal), outside(lb.Local, 0))
			e.wantPicks("1 1")
		}},
		{"an empty cluster pool refuses, whatever is local", 0, func(e *env) {
			svc := e.service("web", "rr", "1", 1, 2)
			outside(lb.Cluster, 0)(svc)
			svc.Frontends[1].Policy = lb.PolicyLocal
			e.apply(svc)
			e.refusedAt(e.client(), e.vip(1), refused("empty_pool", Unreachable))
			e.wantPicksAt(e.vip(2), "1")
		}},
		{"flows stay with a backend that leaves its pools", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.holds(e.web("2 1", outside(lb.Cluster|lb.Local, 0, 1)))
			c.stays()
			e.refusedAt(e.client(), e.vip(1), refused("empty_pool", Unreachable))
			e.web("2 1", policy(lb.PolicyLocal), outside(lb.Local, 0))
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"a SYN on a flow of a backend that is in no pool picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2 1", outside(lb.Cluster|lb.Local, 0))
			c.again(1)
			c.stays()
		}},
		{"policies change in place, and flows stay", 0, func(e *env) {
			e.web("2 1", outside(lb.Local, 0))
			c := e.open()
			for _, p := range []lb.Policy{lb.PolicyLocal, lb.PolicyCluster, lb.PolicyLocalExternal} {
				e.holds(e.web("2 1", outside(lb.Local, 0), policy(p)))
				c.stays()
			}
			e.wantPicks("1 1")
		}},
		{"affinity is the service's: a client stays where both pools allow it", 0, func(e *env) {
			svc := func(places ...int) *lb.Service {
				s := e.service("web", "rr", "3 2 1", 1, 2)
				affinity(time.Hour)(s)
				s.Frontends[1].Policy = lb.PolicyLocal
				outside(lb.Local, places...)(s)
				return s
			}
			e.apply(svc(2))
			addr := e.host(1)
			first := e.pick(e.clientAt(addr), e.vip(1))
			if got := e.pick(e.clientAt(addr), e.vip(2)); got != first || first != "3" {
				e.Errorf("by one policy at server %s, by the other at %s", first, got)
			}
			e.apply(svc(0, 1)) // not in the local pool any more: another there, and it is kept at that
			for _, vip := range []int{2, 1} {
				if got := e.pick(e.clientAt(addr), e.vip(vip)); got != "1" {
					e.Errorf("VIP %d: at server %s, want 1", vip, got)
				}
			}
		}},
		{"cursors of both pools go on in the next process", 0, func(e *env) {
			svc := func() *lb.Service {
				s := e.service("web", "rr", "3 2 1", 1, 2)
				s.Frontends[1].Policy = lb.PolicyLocal
				outside(lb.Local, 1)(s)
				return s
			}
			e.apply(svc())
			e.wantPicksAt(e.vip(1), "3")
			e.wantPicksAt(e.vip(2), "3")
			e.restart()
			e.wantPicksAt(e.vip(2), "1")
			e.holds(e.apply(svc()))
			e.wantPicksAt(e.vip(1), "2 1")
			e.wantPicksAt(e.vip(2), "3 1")
		}},
	}
}

// clientCases are about what depends on who asks.
func clientCases() []testCase {
	return []testCase{
		{"pods and the machine itself have all backends by external policy Local", 0, func(e *env) {
			e.around(e.changed("2 1", policy(lb.PolicyLocalExternal), outside(lb.Local, 0, 1)))
			e.refusedAt(e.client(), e.vip(1), dropped("no_local"))
			e.wantPick(e.pod(), "2")
			e.wantPick(e.clientAt(e.node()), "1")
		}},
		{"without it pods have the local ones only", 0, func(e *env) {
			e.around(e.changed("2 1", policy(lb.PolicyLocal), outside(lb.Local, 0, 1)))
			e.refusedAt(e.pod(), e.vip(1), dropped("no_local"))
		}},
		{"outsiders are masqueraded, pods are not", 0, func(e *env) {
			e.around(e.changed("1", masquerade(lb.MasqueradeOutsiders)))
			e.beginAt(e.client(), e.vip(1)).leaves(SYN)
			e.keepsSource(e.pod())
		}},
		{"the machine itself is masqueraded, pods and outsiders are not", 0, func(e *env) {
			e.around(e.changed("1", masquerade(lb.MasqueradeNode)))
			e.keepsSource(e.client())
			e.keepsSource(e.pod())
			other := e.addr(nodeNet, 2)
			e.rig.AssignLocal(other, true)
			e.beginAt(e.clientAt(other), e.vip(1)).leaves(SYN)
		}},
		{"each frontend masquerades in its own way", 0, func(e *env) {
			svc := e.service("web", "rr", "1", 1, 2)
			svc.Frontends[1].Masquerade = lb.MasqueradeAlways
			e.around(svc)
			e.keepsSource(e.client())
			e.beginAt(e.client(), e.vip(2)).leaves(SYN)
		}},
		{"where pods are may change, for new flows", 0, func(e *env) {
			svc := e.changed("1", masquerade(lb.MasqueradeOutsiders))
			e.around(svc)
			pod := e.pod()
			e.keepsSource(pod)
			e.applySnapshot(e.snapshot(svc))
			e.beginAt(e.clientAt(pod.Addr()), e.vip(1)).leaves(SYN)
		}},
	}
}

func (e *env) wantPick(client netip.AddrPort, want string) {
	e.Helper()
	if got := e.pick(client, e.vip(1)); got != want {
		e.Errorf("%s went to %s, want %s", client, got, want)
	}
}

// keepsSource begins a flow whose backend sees the client.
func (e *env) keepsSource(client netip.AddrPort) {
	e.Helper()
	e.beginAt(client, e.vip(1))
	p := e.fromBackend(client, e.server(1), SYN)
	e.wants(p, passed(p))
}
