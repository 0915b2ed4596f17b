// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// IPVS's timeouts by state.
const (
	established = 900 * time.Second
	synSent     = 120 * time.Second
	synRecv     = 60 * time.Second
	finWait     = 120 * time.Second
	timeWait    = 120 * time.Second
	closed      = 10 * time.Second
	closeWait   = 60 * time.Second
	udpIdle     = 300 * time.Second
)

// open is a handshake; see script.
const open = "cS+ sSA+ cA+ "

// script is a connection's packets, and when it ends if none follows. A packet
// is written "cSA+": from the client (s: the server), with flags S, A, F, R;
// after it the connection counts as active (+) or inactive (-).
type script struct {
	name, packets string
	timeout       time.Duration
}

// scripts are the ways through IPVS's TCP states that packets can take: its
// LAST_ACK, LISTEN and SYNACK have no way in. Two things are left open: what a
// server's bare ACK does to a half-open connection, as a dataplane may wait for
// the client's, which alone is sure to pass; and segments without any flag.
func scripts() []script {
	return []script{
		{"a SYN", "cS+", synRecv},
		{"a SYN that is answered", "cS+ sSA+", synRecv},
		{"a SYN that comes again", "cS+ cS+ sSA+ cS+", synRecv},
		{"a connection", open, established},
		{"a connection with data", open + "cA+ sA+ cA+", established},
		{"a connection and a SYN", open + "cS+", established},
		{"the client closes", open + "cFA-", closeWait},
		{"a connection and the server's SYN", open + "sSA+", established},
		{"the client closes twice", open + "cFA- cFA-", closeWait},
		{"the server closes twice", open + "sFA- sFA-", finWait},
		{"the client closes again in TIME_WAIT", open + "cFA- sFA- cFA-", timeWait},
		{"the server closes again in TIME_WAIT", open + "cFA- sFA- sFA-", timeWait},
		{"the client closes and the server still sends", open + "cFA- sA- cA-", closeWait},
		{"the client closes, then the server", open + "cFA- sFA-", timeWait},
		{"the client closes, then the server, and the last ACK", open + "cFA- sFA- cA-", timeWait},
		{"the server closes", open + "sFA-", finWait},
		{"the server closes and the client still sends", open + "sFA- cA- sA-", finWait},
		{"the server closes, then the client", open + "sFA- cFA-", timeWait},
		{"the server closes, then the client, and the last ACK", open + "sFA- cFA- sA-", timeWait},
		{"the client resets", open + "cR-", closed},
		{"the client resets with an ACK", open + "cRA-", closed},
		{"the server resets", open + "sRA-", closed},
		{"a reset beats a FIN", open + "cRFA-", closed},
		{"segments after a reset", open + "sR- cA- sA- sFA- cFA- cR- sR-", closed},
		{"the server refuses", "cS+ sRA-", closed},
		{"the client's reset of a half-open connection", "cS+ sSA+ cR+", synRecv},
		{"the client's FIN before its ACK", "cS+ sSA+ cFA-", timeWait},
		{"the server's FIN before the client's ACK", "cS+ sSA+ sFA-", timeWait},
		{"the client's reset in CLOSE_WAIT", open + "cFA- cR-", closed},
		{"the server's reset in CLOSE_WAIT", open + "cFA- sR-", closed},
		{"the client's reset in FIN_WAIT", open + "sFA- cR-", closed},
		{"the server's reset in FIN_WAIT", open + "sFA- sR-", closed},
		{"the client's reset in TIME_WAIT", open + "cFA- sFA- cR-", closed},
		{"the server's reset in TIME_WAIT", open + "cFA- sFA- sR-", timeWait},
	}
}

// oddScripts are those that no sane pair of hosts plays.
func oddScripts() []script {
	return []script{
		{"the client's SYN in CLOSE_WAIT", open + "cFA- cS+", synRecv},
		{"the client's SYN in FIN_WAIT", open + "sFA- cS+", synRecv},
		{"the server's SYN in CLOSE_WAIT", open + "cFA- sS+", synSent},
		{"the server's SYN in FIN_WAIT", open + "sFA- sS+", synSent},
		{"the server's SYN in TIME_WAIT", open + "cFA- sFA- sS+", synSent},
		{"the server's SYN after a reset", open + "cR- sS+", synSent},
		{"SYN_SENT and what does not leave it", open + "cR- sS+ cA+ sA+ cFA+ sFA+ sR+", synSent},
		{"SYN_SENT and the server's SYN", open + "cR- sS+ sS+", synSent},
		{"SYN_SENT and the client's reset", open + "cR- sS+ cR-", closed},
		{"SYN_SENT and the client's SYN", open + "cR- sS+ cS+", established},
	}
}

// plays sends a script's packets and compares what the connection, the first to
// server 1, counts as.
func (e *env) plays(packets string) (c *conn, active bool) {
	e.Helper()
	return e.playsAt("web", 1, e.client(), e.vip(1), packets)
}

// playsAt does so at a VIP of a service, where it is the only one to that server.
func (e *env) playsAt(name string, server int, client, vip netip.AddrPort, packets string) (c *conn, active bool) {
	e.Helper()
	letters := map[rune]Flag{'S': SYN, 'A': ACK, 'F': FIN, 'R': RST}
	for i, word := range strings.Fields(packets) {
		body := strings.TrimRight(word, "+-")
		var f Flag
		for _, r := range body[1:] {
			f |= letters[r]
		}
		switch {
		case i == 0:
			c = e.beginAt(client, vip)
		case body[0] == 'c':
			c.sends(f)
		default:
			c.replies(f)
		}
		active = strings.HasSuffix(word, "+")
		if active {
			e.wantLoad(name, server, 1, 0)
		} else {
			e.wantLoad(name, server, 0, 1)
		}
		if e.Failed() {
			e.Fatalf("after packet %d of %s", i+1, packets)
		}
	}
	return c, active
}

// wantCount compares the gauges of server 1.
func (e *env) wantCount(active bool, n uint64) {
	e.Helper()
	if active {
		e.wantLoad("web", 1, n, 0)
	} else {
		e.wantLoad("web", 1, 0, n)
	}
}

// wantEnd wants the one flow to end after timeout, neither before nor later.
func (e *env) wantEnd(active bool, timeout time.Duration) {
	e.Helper()
	e.rig.Advance(timeout - slack)
	e.wantCount(active, 1)
	e.rig.Advance(2 * slack)
	e.wantLoad("web", 1, 0, 0)
}

func stateCases() []testCase {
	var out []testCase
	for _, s := range slices.Concat(scripts(), oddScripts()) {
		out = append(out, testCase{s.name, lb.TCP, func(e *env) {
			e.web("1")
			_, active := e.plays(s.packets)
			e.wantEnd(active, s.timeout)
		}})
	}
	return slices.Concat(out, timerCases(), agingCases())
}

// life is the kind and the timeout of an established flow.
func (e *env) life() (active bool, timeout time.Duration) {
	if e.proto == lb.TCP {
		return true, established
	}
	return false, udpIdle
}

// timerCases are about what keeps a flow.
func timerCases() []testCase {
	return []testCase{
		{"a datagram", lb.UDP, func(e *env) {
			e.web("1")
			e.begin()
			e.wantEnd(false, udpIdle)
		}},
		{"datagrams both ways", lb.UDP, func(e *env) {
			e.web("1")
			e.open()
			e.wantEnd(false, udpIdle)
		}},
		{"the client's packets keep a flow", 0, func(e *env) {
			active, timeout := e.life()
			e.web("1")
			c := e.open()
			for range 3 {
				e.rig.Advance(timeout - slack)
				c.sends(ACK)
			}
			e.wantEnd(active, timeout)
		}},
		{"the server's packets keep a flow", 0, func(e *env) {
			active, timeout := e.life()
			e.web("1")
			c := e.open()
			for range 3 {
				e.rig.Advance(timeout - slack)
				c.replies(ACK)
			}
			e.wantEnd(active, timeout)
		}},
		{"a change of state counts time anew", lb.TCP, func(e *env) {
			e.web("1")
			c := e.open()
			e.rig.Advance(800 * time.Second)
			c.sends(FIN | ACK)
			e.rig.Advance(58 * time.Second)
			e.wantCount(false, 1)
			c.replies(FIN | ACK)
			e.wantEnd(false, timeWait)
		}},
	}
}

// agingCases are about the end of flows among others.
func agingCases() []testCase {
	return []testCase{
		{"an idle flow still works before it ends", 0, func(e *env) {
			_, timeout := e.life()
			e.web("1")
			c := e.open()
			e.rig.Advance(timeout - slack)
			c.stays()
		}},
		{"a flow at a removed backend ends in its time", 0, func(e *env) {
			active, timeout := e.life()
			e.web("1")
			e.open()
			e.web("")
			e.rig.Advance(timeout - slack)
			e.web("1")
			e.wantCount(active, 1)
			e.rig.Advance(2 * slack)
			e.wantLoad("web", 1, 0, 0)
		}},
		{"many flows count, each at its backend, and end", 0, func(e *env) {
			e.web("2 1")
			for range 100 {
				e.begin()
			}
			e.wantFlows("web", 1, 50)
			e.wantFlows("web", 2, 50)
			e.rig.Advance(time.Hour)
			e.wantLoad("web", 1, 0, 0)
			e.wantLoad("web", 2, 0, 0)
		}},
		{"active and inactive stand side by side", lb.TCP, func(e *env) {
			e.web("1")
			a, b := e.open(), e.open()
			e.begin()
			a.closes()
			b.sends(RST)
			e.wantLoad("web", 1, 1, 2)
			e.rig.Advance(closed + slack)
			e.wantLoad("web", 1, 1, 1)
			e.rig.Advance(50 * time.Second)
			e.wantLoad("web", 1, 0, 1)
			e.rig.Advance(60 * time.Second)
			e.wantLoad("web", 1, 0, 0)
		}},
	}
}
