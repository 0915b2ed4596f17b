// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// size is the length of an IP packet with this payload.
func (e *env) size(payload int) uint64 {
	n := 28 + payload
	if e.proto == lb.TCP {
		n += 12
	}
	if e.family == lb.IPv6 {
		n += 20
	}
	return uint64(n)
}

// wantTraffic compares the counters of a backend, but for the gauges.
func (e *env) wantTraffic(name string, server int, want dataplane.BackendCounters) {
	e.Helper()
	got := e.backend(name, server)
	got.Active, got.Inactive, got.Overloaded = 0, 0, false
	if diff := cmp.Diff(want, got); diff != "" {
		e.Errorf("counters of %s's server %d (-want +got):\n%s", name, server, diff)
	}
}

func (e *env) wantOverloaded(name string, server int, want bool) {
	e.Helper()
	if got := e.backend(name, server); got.Overloaded != want {
		e.Errorf("%s's server %d with %d flows: overloaded %v, want %v", name, server, got.Active+got.Inactive, got.Overloaded, want)
	}
}

// counterCases are about what only grows; gauges are with the states.
func counterCases() []testCase {
	return []testCase{
		{"nothing is counted before the first packet", 0, func(e *env) {
			e.web("1")
			e.wantTraffic("web", 1, dataplane.BackendCounters{})
			e.wantLoad("web", 1, 0, 0)
		}},
		{"packets and bytes count by direction", 0, func(e *env) {
			e.web("2 1")
			c := e.begin()
			for _, n := range []int{100, 1000} {
				p := e.fromClient(c.client, c.vip, ACK)
				p.Payload = make([]byte, n)
				e.send(p)
			}
			p := e.fromBackend(e.server(2), c.client, ACK)
			p.Payload = make([]byte, 500)
			e.send(p)
			e.wantTraffic("web", 2, dataplane.BackendCounters{
				Connections: 1, InPackets: 3, InBytes: e.size(0) + e.size(100) + e.size(1000), OutPackets: 1, OutBytes: e.size(500),
			})
			e.wantTraffic("web", 1, dataplane.BackendCounters{})
		}},
		{"connections count picks", 0, func(e *env) {
			e.web("2 1")
			e.wantPicks("2 1 2")
			e.wantTraffic("web", 2, dataplane.BackendCounters{Connections: 2, InPackets: 2, InBytes: 2 * e.size(0)})
			e.wantTraffic("web", 1, dataplane.BackendCounters{Connections: 1, InPackets: 1, InBytes: e.size(0)})
		}},
		{"a retransmitted SYN is a packet, not a connection", lb.TCP, func(e *env) {
			e.web("2 1")
			e.begin().sends(SYN)
			e.wantTraffic("web", 2, dataplane.BackendCounters{Connections: 1, InPackets: 2, InBytes: 2 * e.size(0)})
		}},
	}
}

// assignCases are about which backend something is counted for.
func assignCases() []testCase {
	return []testCase{
		{"a flow that picks afresh is a connection of its new backend", 0, func(e *env) {
			e.web("2 1")
			c := e.begin()
			if e.proto == lb.TCP {
				c.replies(RST | ACK)
			} else {
				e.rig.Advance(time.Hour)
			}
			c.again(1)
			e.wantTraffic("web", 1, dataplane.BackendCounters{Connections: 1, InPackets: 1, InBytes: e.size(0)})
			if got := e.backend("web", 2).Connections; got != 1 {
				e.Errorf("the former backend has %d connections, want 1", got)
			}
		}},
		{"what is refused or passed counts for no backend", 0, func(e *env) {
			e.web("1:0")
			e.wantPicks("- -")
			e.send(e.fromClient(e.client(), e.unknown(), SYN))
			e.send(e.fromBackend(e.server(1), e.client(), ACK))
			e.wantTraffic("web", 1, dataplane.BackendCounters{})
		}},
		{"one server in two services has two counters", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "1", 2))
			e.picksAt(e.vip(1), 1)
			e.picksAt(e.vip(2), 2)
			e.wantTraffic("web", 1, dataplane.BackendCounters{Connections: 1, InPackets: 1, InBytes: e.size(0)})
			e.wantTraffic("shop", 1, dataplane.BackendCounters{Connections: 2, InPackets: 2, InBytes: 2 * e.size(0)})
		}},
		{"counters go on through changes and expiry", 0, func(e *env) {
			e.web("2 1")
			e.wantPicks("2 1")
			e.web("3 2:5 1")
			e.rig.Advance(time.Hour)
			e.wantTraffic("web", 2, dataplane.BackendCounters{Connections: 1, InPackets: 1, InBytes: e.size(0)})
			e.wantTraffic("web", 3, dataplane.BackendCounters{})
		}},
	}
}
