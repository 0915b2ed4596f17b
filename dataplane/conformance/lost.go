// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// lostCases are about flows whose backend was removed or is unhealthy.
func lostCases() []testCase {
	return slices.Concat(lostKeepCases(), lostResetCases(), lostDropCases(), flushCases(), lostServiceCases(), lostChangeCases())
}

// ways are those in which server 2 of "2 1" is lost.
var ways = []struct{ name, list string }{{"removed", "1"}, {"unhealthy", "2! 1"}}

// orders are those in which it is lost and what becomes of its flows is said.
var orders = []string{"said before", "said at once", "said after"}

// loses runs f for each way and order, with an established flow at server 2 that is
// lost. The service is of its own, and f gets its name.
func loses(l lb.Lost, f func(e *env, name string, c *conn)) func(*env) {
	return func(e *env) {
		vip := 0
		for _, way := range ways {
			for _, order := range orders {
				vip++
				name := way.name + ", " + order
				apply := func(list string, l lb.Lost) {
					e.Helper()
					svc := e.service(name, "rr", list, vip)
					svc.Lost = l
					e.apply(svc)
				}
				e.part(name, func(e *env) {
					first := lb.LostKeep
					if order == orders[0] {
						first = l
					}
					apply("2 1", first)
					c := e.openAt(e.client(), e.vip(vip))
					if order == orders[2] {
						apply(way.list, first)
					}
					apply(way.list, l)
					f(e, name, c)
				})
			}
		}
	}
}

// back brings server 2 back.
func (e *env) back(name string, c *conn, l lb.Lost) {
	e.Helper()
	svc := e.service(name, "rr", "2 1")
	svc.Frontends, svc.Lost = []lb.Frontend{e.frontend(c.vip)}, l
	e.apply(svc)
}

// repicks wants the flow at server 1 from now on, and nothing of it at server 2.
func (c *conn) repicks(name string) {
	c.e.Helper()
	p := c.e.fromBackend(c.e.server(2), c.client, 0)
	c.again(1)
	c.e.wants(p, passed(p))
	c.stays()
	c.e.wantFlows(name, 2, 0)
	c.e.wantFlows(name, 1, 1)
}

func lostKeepCases() []testCase {
	return []testCase{
		{"kept, a connection goes on until it closes", lb.TCP, loses(lb.LostKeep, func(e *env, name string, c *conn) {
			c.stays()
			e.wantLoad(name, 2, 1, 0)
			e.rig.Advance(slack)
			c.stays()
			c.closes()
			e.wantLoad(name, 2, 0, 1)
			e.wantPicksAt(c.vip, "1 1")
		})},
		{"kept, a flow is as before when its backend is back", 0, loses(lb.LostKeep, func(e *env, name string, c *conn) {
			e.back(name, c, lb.LostKeep)
			c.stays()
			e.wantFlows(name, 2, 1)
			e.picksAt(c.vip, 2)
			e.wantFlows(name, 2, 2)
			e.wantFlows(name, 1, 1)
		})},
		{"kept, a datagram picks afresh", lb.UDP, loses(lb.LostKeep, func(e *env, name string, c *conn) {
			c.repicks(name)
			e.back(name, c, lb.LostKeep)
			c.stays()
		})},
	}
}

func lostResetCases() []testCase {
	return []testCase{
		{"reset, a connection's next segment is answered so", lb.TCP, loses(lb.LostReset, func(e *env, name string, c *conn) {
			for range 2 {
				e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
				e.wantLoad(name, 2, 0, 0)
			}
			p := e.fromBackend(e.server(2), c.client, ACK)
			e.wants(p, passed(p))
			e.back(name, c, lb.LostReset)
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			c = e.openAt(c.client, c.vip)
			e.wantLoad(name, c.server, 1, 0)
			e.wantLoad(name, 3-c.server, 0, 0)
		})},
		{"reset, a SYN picks afresh", lb.TCP, loses(lb.LostReset, func(e *env, name string, c *conn) {
			c.again(1)
			c.replies(SYN | ACK)
			e.wantLoad(name, 2, 0, 0)
			e.wantLoad(name, 1, 1, 0)
		})},
		{"reset, the client's own reset is not answered", lb.TCP, loses(lb.LostReset, func(e *env, name string, c *conn) {
			e.wants(e.fromClient(c.client, c.vip, RST), dropped("no_flow"))
			e.wantLoad(name, 2, 0, 0)
		})},
		{"reset, at an address of the machine the stack does it", lb.TCP, loses(lb.LostReset, func(e *env, name string, c *conn) {
			e.rig.AssignLocal(c.vip.Addr(), true)
			p := e.fromClient(c.client, c.vip, ACK)
			e.wants(p, passed(p))
			e.wantLoad(name, 2, 0, 0)
		})},
		{"reset, a datagram picks afresh", lb.UDP, loses(lb.LostReset, func(e *env, name string, c *conn) { c.repicks(name) })},
	}
}

func lostDropCases() []testCase {
	return []testCase{
		{"dropped, packets change nothing, and it goes on when the backend is back", 0, loses(lb.LostDrop, func(e *env, name string, c *conn) {
			before := e.counters().Drops["backend_gone"]
			for _, f := range []Flag{ACK, FIN | ACK, RST} {
				e.wants(e.fromClient(c.client, c.vip, f), dropped("backend_gone"))
			}
			if n := e.counters().Drops["backend_gone"] - before; n != 3 {
				e.Errorf("%d dropped as backend_gone, want 3", n)
			}
			e.wantFlows(name, 2, 1)
			e.wantPicksAt(c.vip, "1 1")
			e.rig.Advance(slack)
			e.back(name, c, lb.LostDrop)
			c.stays()
			e.wantFlows(name, 2, 1)
		})},
		{"dropped, answers still find the client", 0, loses(lb.LostDrop, func(_ *env, _ string, c *conn) {
			c.replies(ACK)
			c.replies(ACK)
		})},
		{"dropped, packets do not keep a flow from its end", 0, loses(lb.LostDrop, func(e *env, name string, c *conn) {
			_, life := e.life()
			e.rig.Advance(life - 2*slack)
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
			e.wantFlows(name, 2, 1)
			e.rig.Advance(4 * slack)
			e.wantFlows(name, 2, 0)
			if e.proto == lb.TCP {
				e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			} else {
				c.again(1)
			}
		})},
		{"dropped, a half-open connection counts until its end", lb.TCP, func(e *env) {
			e.web("2 1", lost(lb.LostDrop))
			c := e.begin()
			e.web("1", lost(lb.LostDrop))
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
			e.wantLoad("web", 2, 1, 0)
			e.rig.Advance(synRecv + slack)
			e.wantLoad("web", 2, 0, 0)
		}},
	}
}

// flushCases are about flows that end though nothing of them comes.
func flushCases() []testCase {
	return []testCase{
		{"reset, silent flows end by themselves", 0, loses(lb.LostReset, func(e *env, name string, c *conn) {
			other := e.openAt(e.client(), c.vip)
			e.rig.Advance(slack)
			e.wantFlows(name, 2, 0)
			e.wantFlows(name, 1, 1)
			other.stays()
			p := e.fromBackend(e.server(2), c.client, ACK)
			e.wants(p, passed(p))
			e.back(name, c, lb.LostReset)
			e.wantPicksAt(c.vip, "2 1")
			e.wantFlows(name, 2, 1)
		})},
		{"kept or dropped ones do not", 0, func(e *env) {
			for i, l := range []lb.Lost{lb.LostKeep, lb.LostDrop} {
				e.part(l.String(), func(e *env) {
					for n, way := range ways {
						name, vip := fmt.Sprint(l, n), 1+2*i+n
						svc := e.service(name, "rr", "2 1", vip)
						lost(l)(svc)
						e.apply(svc)
						e.openAt(e.client(), e.vip(vip))
						then := e.service(name, "rr", way.list, vip)
						lost(l)(then)
						e.apply(then)
						e.rig.Advance(slack)
						e.wantFlows(name, 2, 1)
					}
				})
			}
		}},
		{"reset, flows of a quiesced or overloaded backend are not lost", 0, func(e *env) {
			e.web("2^1 1", lost(lb.LostReset))
			c := e.open()
			e.rig.Advance(slack)
			c.stays()
			e.web("2:0^1 1", lost(lb.LostReset))
			e.rig.Advance(slack)
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"reset, other services' flows at the same server are not lost", 0, func(e *env) {
			web, shop := e.changed("2 1", lost(lb.LostReset)), e.service("shop", "rr", "2", 2)
			e.apply(web, shop)
			c, other := e.open(), e.openAt(e.client(), e.vip(2))
			e.apply(e.changed("1", lost(lb.LostReset)), shop)
			e.rig.Advance(slack)
			other.stays()
			e.wantFlows("shop", 2, 1)
			e.wantFlows("web", 2, 0)
			c.again(1)
		}},
		{"reset, all entries of a masqueraded flow end", lb.TCP, func(e *env) {
			masquerade := func(s *lb.Service) { s.SetMasquerade(lb.MasqueradeAlways) }
			e.rig.MasqueradeWith(e.family, e.node())
			e.web("2 1", masquerade, lost(lb.LostReset))
			c, masq := e.openMasqueraded(e.client(), e.vip(1))
			e.web("1", masquerade, lost(lb.LostReset))
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			p := e.fromClient(e.server(2), masq, ACK)
			e.wants(p, passed(p))
			c, masq = e.openMasqueraded(c.client, c.vip)
			c.comes(masq, ACK)
			e.wantFlows("web", 1, 1)
		}},
		{"reset, a flow with another port of its client ends", 0, func(e *env) {
			both := func(s *lb.Service) { s.Frontends = append(s.Frontends, e.frontend(e.vip(2))) }
			e.web("2", both, lost(lb.LostReset))
			client := e.client()
			e.openAt(client, e.vip(1))
			c := e.resourcedAt(client, e.vip(2))
			c.replies(SYN | ACK)
			e.web("1", both, lost(lb.LostReset))
			e.rig.Advance(slack)
			e.wantFlows("web", 2, 0)
			for _, source := range []netip.AddrPort{c.source, client} {
				p := e.fromBackend(e.server(2), source, ACK)
				e.wants(p, passed(p))
			}
			e.openAt(client, e.vip(2)).stays()
		}},
	}
}

// lostServiceCases are about flows whose service is removed, and their backend with
// it.
func lostServiceCases() []testCase {
	return []testCase{
		{"dropped, flows of a removed service are too, until it is back", 0, func(e *env) {
			e.web("2 1", lost(lb.LostDrop))
			c := e.open()
			e.applySnapshot(nil)
			e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
			e.web("2 1", lost(lb.LostDrop))
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
		{"reset, connections of a removed service are no longer ours", lb.TCP, func(e *env) {
			other := e.service("other", "rr", "3", 2)
			other.Frontends = append(other.Frontends, e.frontend(e.unknown()))
			for _, left := range []*lb.Service{e.service("other", "rr", "3", 2), other} {
				e.apply(e.changed("2 1", lost(lb.LostReset)), left)
				c := e.open()
				e.apply(left)
				p := e.fromClient(c.client, c.vip, ACK)
				if left == other { // the address is still a VIP
					e.wants(p, refused("unknown_port", Unreachable))
				} else {
					e.wants(p, passed(p))
				}
				e.web("2 1", lost(lb.LostReset))
				e.wantLoad("web", 2, 0, 0)
				e.wants(p, refused("no_flow", Reset))
			}
		}},
		{"reset, silent flows of a removed service end by themselves", 0, func(e *env) {
			e.web("1", lost(lb.LostReset))
			c := e.open()
			e.applySnapshot(nil)
			e.rig.Advance(slack)
			e.web("1", lost(lb.LostReset))
			e.wantFlows("web", 1, 0)
			c.again(1)
		}},
	}
}

// lostChangeCases are about what is said of flows whose backend is lost already,
// and about backends that are lost in more than one way.
func lostChangeCases() []testCase {
	return []testCase{
		{"what becomes of lost connections may change", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			for range 2 {
				e.web("1", lost(lb.LostDrop))
				e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
				e.web("1", lost(lb.LostKeep))
				c.stays()
			}
			e.web("1", lost(lb.LostReset))
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			e.web("1", lost(lb.LostKeep))
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
		}},
		{"unhealthy, removed, back and unhealthy, healthy: dropped all the time", 0, func(e *env) {
			e.web("2 1", lost(lb.LostDrop))
			c := e.open()
			for _, list := range []string{"2! 1", "1", "2! 1", "2:0! 1", "1", "2! 1"} {
				e.web(list, lost(lb.LostDrop))
				e.wants(e.fromClient(c.client, c.vip, ACK), dropped("backend_gone"))
				e.wantPicks("1")
				e.wantFlows("web", 2, 1)
			}
			e.web("2:0 1", lost(lb.LostDrop))
			c.stays()
			e.web("2 1", lost(lb.LostDrop))
			c.stays()
		}},
		{"unhealthy, removed, back and unhealthy, healthy: a connection goes on", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			for _, list := range []string{"2! 1", "1", "2! 1", "2:0! 1", "1", "2! 1", "2:0 1", "2 1"} {
				e.web(list)
				c.stays()
				e.wantFlows("web", 2, 1)
			}
		}},
		{"a datagram that nobody takes is refused, unless it is dropped", lb.UDP, func(e *env) {
			for i, l := range []lb.Lost{lb.LostKeep, lb.LostReset, lb.LostDrop} {
				want := refused("empty_pool", Unreachable)
				if l == lb.LostDrop {
					want = dropped("backend_gone")
				}
				name := l.String()
				svc := e.service(name, "rr", "1", 1+i)
				lost(l)(svc)
				e.apply(svc)
				c := e.openAt(e.client(), e.vip(1+i))
				then := e.service(name, "rr", "1!", 1+i)
				lost(l)(then)
				e.apply(then)
				e.wants(e.fromClient(c.client, c.vip, 0), want)
				e.wants(e.fromClient(c.client, c.vip, 0), want)
				e.rig.Advance(time.Hour)
				e.wantFlows(name, 1, 0)
			}
		}},
	}
}
