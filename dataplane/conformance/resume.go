// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// hashing are the schedulers whose picks the packet alone decides.
var hashing = []string{"sh", "dh", "mh"}

// number is that of a server that was picked.
func number(server string) int { return int(server[0] - '0') }

// resumed sends a segment of a connection that the dataplane does not know, and
// wants it at the server.
func (e *env) resumed(server string, f Flag) *conn {
	e.Helper()
	client := e.clientAt(e.host(1))
	c := &conn{e: e, client: client, vip: e.vip(1), source: client, server: number(server)}
	c.sends(f)
	return c
}

// resumeCases are about TCP that another director, or this one long ago, had:
// with schedulers that hash it goes on.
func resumeCases() []testCase {
	hashed := func(run func(e *env, change change)) func(*env) {
		return func(e *env) {
			for _, name := range hashing {
				e.part(name, func(e *env) { run(e, scheduler(name, 0)) })
			}
		}
	}
	return []testCase{
		{"a segment of no connection goes where its hash leads", lb.TCP, hashed(func(e *env, by change) {
			e.web("3 2 1", by)
			place := e.pick(e.clientAt(e.host(1)), e.vip(1))
			before := e.backend("web", number(place)).Active
			c := e.resumed(place, ACK)
			c.replies(ACK)
			c.stays()
			if got := e.backend("web", c.server).Active; got != before+1 {
				e.Errorf("%d connections are active at server %s, want %d", got, place, before+1)
			}
			c.closes()
		})},
		{"so it does at an address of the machine", lb.TCP, hashed(func(e *env, by change) {
			e.rig.AssignLocal(e.vip(1).Addr(), true)
			defer e.rig.AssignLocal(e.vip(1).Addr(), false)
			e.web("3 2 1", by)
			e.resumed(e.pick(e.clientAt(e.host(1)), e.vip(1)), ACK).stays()
		})},
		{"a FIN of no connection goes there too", lb.TCP, hashed(func(e *env, by change) {
			e.web("3 2 1", by)
			c := e.resumed(e.pick(e.clientAt(e.host(1)), e.vip(1)), FIN|ACK)
			c.replies(FIN | ACK)
			c.sends(ACK)
		})},
		{"what cannot be amid a connection does not", lb.TCP, hashed(func(e *env, by change) {
			e.web("2 1", by)
			for _, f := range []Flag{SYN | ACK, FIN, 0} {
				e.wants(e.fromClient(e.client(), e.vip(1), f), refused("no_flow", Reset))
			}
			for _, f := range []Flag{RST, RST | ACK} {
				e.wants(e.fromClient(e.client(), e.vip(1), f), dropped("no_flow"))
			}
		})},
		{"nor does it if nobody is there", lb.TCP, hashed(func(e *env, by change) {
			for _, list := range []string{"", "1!"} {
				e.web(list, by)
				e.wants(e.fromClient(e.client(), e.vip(1), ACK), refused("no_flow", Reset))
			}
		})},
		{"a connection that was silent for too long goes on", lb.TCP, hashed(func(e *env, by change) {
			e.web("3 2 1", by)
			c := e.open()
			e.rig.Advance(time.Hour)
			e.rig.Advance(3 * time.Second)
			e.wantLoad("web", c.server, 0, 0)
			c.stays()
			e.wantLoad("web", c.server, 1, 0)
		})},
		{"a connection that is reset does not go on elsewhere", lb.TCP, hashed(func(e *env, by change) {
			e.web("3 2 1", by, lost(lb.LostReset))
			c := e.open()
			rest := strings.TrimSpace(strings.Replace(" 3 2 1", strconv.Itoa(c.server), "", 1))
			e.web(rest, by, lost(lb.LostReset))
			e.wants(e.fromClient(c.client, c.vip, ACK), refused("no_flow", Reset))
			e.wantLoad("web", c.server, 0, 0)
		})},
		{"a client that is kept goes where it is kept", lb.TCP, hashed(func(e *env, by change) {
			e.web("1", by, affinity(time.Hour))
			e.wantPicksOf(e.host(1), "1")
			e.web("3 2 1", by, affinity(time.Hour))
			e.resumed("1", ACK).stays()
		})},
	}
}
