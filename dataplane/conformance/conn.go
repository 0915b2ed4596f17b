// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// conn is a flow, seen by a client that knows its server.
type conn struct {
	e           *env
	client, vip netip.AddrPort
	source      netip.AddrPort // the client as its packets go on with
	server      int
	at          netip.AddrPort // its address, if it is not server's
}

func (c *conn) backend() netip.AddrPort {
	if c.at.IsValid() {
		return c.at
	}
	return c.e.server(c.server)
}

// begin sends the first packet of a new client to VIP 1.
func (e *env) begin() *conn { e.Helper(); return e.beginAt(e.client(), e.vip(1)) }

func (e *env) beginAt(client, vip netip.AddrPort) *conn {
	e.Helper()
	c := &conn{e: e, client: client, vip: vip, source: client}
	got := e.send(e.fromClient(client, vip, SYN))
	if got.Verdict == lb.Forward && got.Src == client {
		c.server = e.serverNumber(got.Dst)
	}
	if c.server == 0 {
		e.Fatalf("first packet %s -> %s: %+v, want it at a server", client, vip, got)
	}
	return c
}

// open begins a flow and establishes it.
func (e *env) open() *conn { e.Helper(); return e.openAt(e.client(), e.vip(1)) }

func (e *env) openAt(client, vip netip.AddrPort) *conn {
	e.Helper()
	c := e.beginAt(client, vip)
	c.replies(SYN | ACK)
	c.sends(ACK)
	return c
}

// opens opens n flows.
func (e *env) opens(n int) []*conn {
	e.Helper()
	var out []*conn
	for range n {
		out = append(out, e.open())
	}
	return out
}

// endAllBut lets the established flows end, but for these.
func (e *env) endAllBut(stay ...*conn) {
	e.Helper()
	const margin = 30 * time.Second
	_, life := e.life()
	e.rig.Advance(life - margin)
	for _, c := range stay {
		c.sends(ACK)
	}
	e.rig.Advance(2 * margin)
	for _, c := range stay {
		c.sends(ACK) // all are of one age again
	}
}

// resourcedAt begins a flow whose client port is not free at the backend: it
// goes on with another.
func (e *env) resourcedAt(client, vip netip.AddrPort) *conn {
	e.Helper()
	got := e.send(e.fromClient(client, vip, SYN))
	c := &conn{e: e, client: client, vip: vip, source: got.Src, server: e.serverNumber(got.Dst)}
	if got.Verdict != lb.Forward || got.Src.Addr() != client.Addr() || got.Src == client || c.server == 0 {
		e.Fatalf("first packet %s -> %s: %+v, want it at a server, from another port of the client", client, vip, got)
	}
	return c
}

// sends wants a packet of the client to reach the server.
func (c *conn) sends(f Flag) {
	c.e.Helper()
	c.e.wants(c.e.fromClient(c.client, c.vip, f), Outcome{Verdict: lb.Forward, Src: c.source, Dst: c.backend()})
}

// replies wants a packet of the server to reach the client as the VIP's.
func (c *conn) replies(f Flag) {
	c.e.Helper()
	c.e.wants(c.e.fromBackend(c.backend(), c.source, f), Outcome{Verdict: lb.Forward, Src: c.vip, Dst: c.client})
}

// stays wants data to go both ways as before.
func (c *conn) stays() { c.e.Helper(); c.sends(ACK); c.replies(ACK) }

// closes closes the connection from the client's side: it is in TIME_WAIT.
func (c *conn) closes() { c.e.Helper(); c.sends(FIN | ACK); c.replies(FIN | ACK); c.sends(ACK) }

// again sends a SYN, or a datagram, and wants it at the server, which is the
// flow's from now on.
func (c *conn) again(server int) {
	c.e.Helper()
	c.server = server
	c.sends(SYN)
}
