// SPDX-License-Identifier: Apache-2.0

package conformance

import "github.com/waggle-lb/waggle/lb"

// backendCases are about flows whose backends come, go and rest.
func backendCases() []testCase {
	return []testCase{
		{"a flow stays when a backend is added", 0, func(e *env) {
			e.web("1")
			c := e.open()
			e.web("2 1")
			c.stays()
			e.wantPicks("2 1")
			c.stays()
		}},
		{"a flow stays when another backend is removed", 0, func(e *env) {
			e.web("3 2 1")
			c := e.open()
			e.web("3 1")
			c.stays()
			e.wantFlows("web", 3, 1)
		}},
		{"a flow stays when its backend's weight changes", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2:9 1")
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
	}
}

// removalCases are about flows whose backend is removed.
func removalCases() []testCase {
	return []testCase{
		{"a connection goes on at a removed backend", lb.TCP, func(e *env) {
			e.web("2 1")
			c, half := e.open(), e.begin()
			e.web("")
			c.stays()
			half.replies(SYN | ACK)
			half.sends(ACK)
			c.closes()
			half.stays()
		}},
		{"a datagram to a removed backend picks afresh", lb.UDP, func(e *env) {
			e.web("3 2 1")
			c := e.open()
			e.web("2 1")
			c.again(2)
			c.stays()
			e.wantFlows("web", 2, 1)
			e.wantPicks("1 2")
		}},
		{"a re-picked flow knows its former backend no more", lb.UDP, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("1")
			c.again(1)
			p := e.fromBackend(e.server(2), c.client, 0)
			e.wants(p, passed(p))
			c.stays()
		}},
		{"a datagram to the last backend, removed, is refused", lb.UDP, func(e *env) {
			e.web("1")
			c := e.open()
			e.web("")
			e.wants(e.fromClient(c.client, c.vip, 0), refused("empty_pool", Unreachable))
			e.web("2")
			c.again(2)
		}},
		{"a new connection avoids a removed backend", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("1")
			e.wantPicks("1 1")
			c.stays()
		}},
		{"a SYN to a removed backend picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			half, c := e.begin(), e.open()
			e.web("3")
			half.again(3)
			half.replies(SYN | ACK)
			c.stays()
			c.again(3)
			e.wantFlows("web", 3, 2)
		}},
	}
}

// returnCases are about backends that come back.
func returnCases() []testCase {
	return []testCase{
		{"a flow is as before when its backend is back", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("1")
			e.web("2 1")
			c.stays()
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 0)
		}},
		{"a backend that is back gets new flows and counts the old", 0, func(e *env) {
			e.web("1")
			c := e.open()
			e.web("")
			e.web("1")
			e.wantPicks("1 1")
			e.wantFlows("web", 1, 3)
			c.stays()
		}},
	}
}

// quiesceCases are about backends of weight 0.
func quiesceCases() []testCase {
	return []testCase{
		{"a quiesced backend keeps what it has and gets nothing new", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2:0 1")
			e.wantPicks("1 1 1")
			c.stays()
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 3)
		}},
		{"a SYN to a quiesced backend picks afresh", lb.TCP, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2:0 1")
			c.stays()
			c.again(1)
			c.replies(SYN | ACK)
			e.wantLoad("web", 2, 0, 0)
			e.wantLoad("web", 1, 1, 0)
		}},
		{"a SYN to the only backend, quiesced, is refused", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			e.web("1:0")
			c.stays()
			e.wants(e.fromClient(c.client, c.vip, SYN), refused("empty_pool", Unreachable))
			e.wantLoad("web", 1, 0, 0)
		}},
		{"a quiesced backend whose weight is back gets new flows", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("2:0 1")
			e.wantPicks("1")
			e.web("2 1")
			e.wantPicks("2 1 2")
			c.stays()
			e.wantFlows("web", 2, 3)
		}},
		{"all backends replaced at once", 0, func(e *env) {
			e.web("2 1")
			c := e.open()
			e.web("4 3")
			e.wantPicks("4 3 4")
			if e.proto == lb.TCP {
				c.stays()
			} else {
				c.again(3)
			}
		}},
	}
}
