// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// unknown is VIP 1 at a port that no service has.
func (e *env) unknown() netip.AddrPort { return netip.AddrPortFrom(e.vip(1).Addr(), 81) }

// refusalCases are about what is not forwarded, and why.
func refusalCases() []testCase {
	return []testCase{
		{"a service without backends refuses", 0, func(e *env) {
			e.web("")
			e.wants(e.fromClient(e.client(), e.vip(1), SYN), refused("empty_pool", Unreachable))
		}},
		{"a service whose backends are all quiesced refuses", 0, func(e *env) {
			e.web("2:0 1:0")
			e.wants(e.fromClient(e.client(), e.vip(1), SYN), refused("empty_pool", Unreachable))
		}},
		{"an empty pool refuses at an address of the machine too", 0, func(e *env) {
			e.rig.AssignLocal(e.vip(1).Addr(), true)
			e.web("")
			e.wants(e.fromClient(e.client(), e.vip(1), SYN), refused("empty_pool", Unreachable))
		}},
		{"a VIP's unknown port refuses", 0, func(e *env) {
			e.web("1")
			e.wants(e.fromClient(e.client(), e.unknown(), SYN), refused("unknown_port", Unreachable))
			e.wants(e.fromClient(e.client(), e.unknown(), ACK), refused("unknown_port", Unreachable))
		}},
		{"a VIP's unknown port is the machine's if the address is", 0, func(e *env) {
			e.web("1")
			p := e.fromClient(e.client(), e.unknown(), SYN)
			e.rig.AssignLocal(e.vip(1).Addr(), true)
			e.wants(p, passed(p))
			e.rig.AssignLocal(e.vip(1).Addr(), false)
			e.wants(p, refused("unknown_port", Unreachable))
		}},
		{"a frontend's port of the other protocol is unknown", 0, func(e *env) {
			e.web("1")
			p := e.fromClient(e.client(), e.vip(1), 0)
			p.Protocol, p.Flags = lb.UDP, 0
			if e.proto == lb.UDP {
				p.Protocol, p.Flags = lb.TCP, SYN
			}
			e.wants(p, refused("unknown_port", Unreachable))
		}},
		{"a removed frontend's port is unknown, a removed address is no VIP", 0, func(e *env) {
			svc := e.service("web", "rr", "1", 1, 2)
			svc.Frontends = append(svc.Frontends, e.frontend(e.unknown()))
			e.apply(svc)
			e.wantPicksAt(e.unknown(), "1")
			e.wantPicksAt(e.vip(2), "1")
			e.web("1")
			e.wants(e.fromClient(e.client(), e.unknown(), SYN), refused("unknown_port", Unreachable))
			p := e.fromClient(e.client(), e.vip(2), SYN)
			e.wants(p, passed(p))
		}},
	}
}

// noFlowCases are about TCP without a connection, and packets that came past
// ingress.
func noFlowCases() []testCase {
	return []testCase{
		{"a segment of no connection is reset", lb.TCP, func(e *env) {
			e.web("1")
			for _, f := range []Flag{ACK, FIN | ACK, SYN | ACK, FIN, 0} {
				e.wants(e.fromClient(e.client(), e.vip(1), f), refused("no_flow", Reset))
			}
			e.wantLoad("web", 1, 0, 0)
		}},
		{"a reset of no connection is dropped in silence", lb.TCP, func(e *env) {
			e.web("1")
			for _, f := range []Flag{RST, RST | ACK, RST | SYN} {
				e.wants(e.fromClient(e.client(), e.vip(1), f), dropped("no_flow"))
			}
		}},
		{"a segment of no connection is the stack's at an address of the machine", lb.TCP, func(e *env) {
			e.web("1")
			e.rig.AssignLocal(e.vip(1).Addr(), true)
			for _, f := range []Flag{ACK, FIN | ACK, SYN | ACK, RST} {
				p := e.fromClient(e.client(), e.vip(1), f)
				e.wants(p, passed(p))
			}
		}},
		{"a segment of no connection does not take a pick", lb.TCP, func(e *env) {
			e.web("2 1")
			e.wantPicks("2")
			e.wants(e.fromClient(e.client(), e.vip(1), ACK), refused("no_flow", Reset))
			e.wantPicks("1")
		}},
		{"a packet to a frontend that is found at egress is dropped", 0, func(e *env) {
			e.web("1")
			c := e.open()
			e.wants(e.fromBackend(e.client(), e.vip(1), SYN), dropped("untranslated"))
			e.wants(e.fromBackend(c.client, e.vip(1), ACK), dropped("untranslated"))
			p := e.fromBackend(e.client(), e.unknown(), SYN)
			e.wants(p, passed(p))
		}},
		{"what is refused is counted by its reason and leaves no flow", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("empty", "rr", "", 2))
			before := e.counters().Drops
			for range 2 {
				e.send(e.fromClient(e.client(), e.vip(2), SYN))
			}
			for range 3 {
				e.send(e.fromClient(e.client(), e.unknown(), SYN))
			}
			e.send(e.fromBackend(e.client(), e.vip(1), SYN))
			e.begin()
			after := e.counters().Drops
			want := map[string]uint64{"empty_pool": 2, "unknown_port": 3, "untranslated": 1}
			for reason, n := range after {
				if n -= before[reason]; n != want[reason] {
					e.Errorf("%d dropped as %s, want %d", n, reason, want[reason])
				}
				delete(want, reason)
			}
			if len(want) > 0 {
				e.Errorf("not counted: %v", want)
			}
			e.wantFlows("web", 1, 1)
		}},
	}
}
