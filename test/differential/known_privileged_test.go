// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// This file has all that the script keeps off, as docs/ipvs-compatibility.md says that
// it is otherwise:
//
//	D1 to D3           the services have the options that switch them off: mode.options
//	D4                 no two connections have one client port: client
//	edits              that change nothing send IPVS's wrr to its head: changeServers
//	long cycles        of wrr are scaled: drawn
//	sloppy TCP         hash schedulers pick amid connections: isSloppy
//	clients            of deleted servers are free where IPVS ends their connections: staysAway
//	replaced           connections count amid the pick of what replaces them: countsReplaced
//	bare ACKs          of servers do not establish what is half-open: bare
//	expiry             is the sweeper's, every two seconds, and a work queue's: expire
//	servers once away  what they counted before: never
//	overloaded         IPVS shows it to nobody: what it does to picks is compared

// client is one that made no connection before.
func (w *world) client() netip.AddrPort {
	for {
		a := w.near[w.rng.IntN(len(w.near))]
		if w.rng.IntN(2) == 0 {
			a = w.address()
		}
		c := netip.AddrPortFrom(a, 1024+uint16(w.rng.IntN(60000)))
		if !w.used[c] {
			w.used[c] = true
			return c
		}
	}
}

// weights are chosen from. The last is too much for wrr, whose longest cycles are
// scaled: docs/schedulers.md.
var weights = []uint16{0, 1, 1, 1, 2, 2, 3, 4, 6, 10, 100, lb.MaxWeight}

// drawn makes a server's weight and thresholds.
func (s *service) drawn(rng *rand.Rand, at netip.AddrPort) lb.Backend {
	n := len(weights)
	if s.scheduler == "wrr" {
		n--
	}
	b := lb.Backend{Addr: at, Weight: weights[rng.IntN(n)]}
	if rng.IntN(4) == 0 {
		b.Upper = 1 + uint32(rng.IntN(12))
		b.Lower = uint32(rng.IntN(int(b.Upper) + 1))
	}
	return b
}

// never leaves servers that were not away. IPVS remembers what a deleted server
// counted for two minutes, and does not count what it still sends to its clients;
// waggle remembers while it has connections, and counts.
func (s *service) never(list []counts) []counts {
	return slices.DeleteFunc(slices.Clone(list), func(c counts) bool { return s.returned[c.Addr] })
}

// isSloppy says that waggle picks for segments of no connection, as IPVS does with
// sloppy_tcp, which is for all schedulers or none.
func (s *service) isSloppy() bool {
	return !s.udp && (s.scheduler == "sh" || s.scheduler == "dh" || s.scheduler == "mh")
}

// countsReplaced says that a SYN of this client might be picked for by who has how many
// connections. IPVS counts one that is finished until a timer has ended it, after the
// pick; waggle ends it first.
func (w *world) countsReplaced(s *service, c *conn) bool {
	if s.udp || !c.closing || !w.mode.reuse {
		return false
	}
	limited := func(b lb.Backend) bool { return b.Upper > 0 }
	return slices.Contains([]string{"lc", "wlc", "sed", "nq"}, s.scheduler) || slices.ContainsFunc(s.backends, limited)
}

// bare are the flags of a segment that a server sends amid a connection. To IPVS a bare
// ACK establishes one that is half-open, where a server says SYN and ACK but for a port
// that is used again; waggle leaves that to the client's ACK.
func (c *conn) bare() packet.Flag {
	if !c.acked {
		return packet.SYN | packet.ACK
	}
	return packet.ACK
}

// refused comes after a SYN on the port of a connection that nobody took: it is none
// any more.
func (w *world) refused(s *service, c *conn, out outcome) {
	if out.What == "refused" && s.isSloppy() {
		s.conns = slices.DeleteFunc(s.conns, func(o *conn) bool { return o == c })
	}
}

// expire comes after servers were deleted. If expire_nodest_conn says that their
// connections end, each machine comes to it when it does: most often none of their
// packets follow, sometimes it is waited for.
func (w *world) expire(s *service, gone []lb.Backend) {
	w.Helper()
	if !w.mode.expire || len(gone) == 0 {
		return
	}
	if w.rng.IntN(6) > 0 || s.isSloppy() {
		s.conns = slices.DeleteFunc(s.conns, func(c *conn) bool {
			return slices.ContainsFunc(gone, func(b lb.Backend) bool { return b.Addr == c.server })
		})
		return
	}
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(50 * time.Millisecond) {
		if !slices.ContainsFunc(gone, func(b lb.Backend) bool { return w.isLeaving(s, b) }) {
			break
		}
	}
	time.Sleep(50 * time.Millisecond)
}

// staysAway says that a deleted server has had clients that IPVS forgets with its
// connections, if expire_nodest_conn says that these end. waggle remembers them until it
// is back.
func (w *world) staysAway(s *service, b lb.Backend) bool {
	return w.mode.expire && strings.Contains(s.args, "-p ") && s.returned[b.Addr]
}

// isLeaving says that a server was deleted and that its connections are about to end:
// it does not come back before.
func (w *world) isLeaving(s *service, b lb.Backend) bool {
	w.Helper()
	l, _, err := w.waggle.loadOf(lb.BackendID{Service: s.id(), Addr: b.Addr})
	w.do(err)
	return w.mode.expire && l.Active+l.Inactive > 0
}
