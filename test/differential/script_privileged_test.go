// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/internal/packet"
)

// conn is a connection that somebody has.
type conn struct {
	client, server netip.AddrPort
	reset          bool // by either side: it ends in ten seconds
	acked          bool // the client's SYN is not the last of it that a server got
	closing        bool // since then either side said FIN or RST: it may be finished
}

// play makes the epoch's connections, amid what happens to them and to the servers.
func (w *world) play() {
	w.Helper()
	for begun := time.Now(); time.Since(begun) < epochLasts; {
		open := slices.DeleteFunc(slices.Clone(w.services), func(s *service) bool { return s.left == 0 })
		if len(open) == 0 {
			break
		}
		if !w.first.IsZero() && time.Since(w.first) > resetLasts {
			w.settle()
		}
		s := open[w.rng.IntN(len(open))]
		switch n := w.rng.IntN(100); {
		case n < 50 || len(s.conns) == 0 && n < 90:
			w.connect(s)
		case n < 90:
			w.act(s)
		default:
			w.change(s)
			w.compare(s)
		}
		if w.operations++; w.operations%*every == 0 {
			w.compare(s)
		}
	}
	w.compareEntries()
	w.compareTraffic()
}

// late says that an epoch is near its end: resets are for then, as what they leave is
// waited for.
func (w *world) late() bool {
	left := 0
	for _, s := range w.services {
		left += s.left
	}
	return left < w.planned/6
}

// epochLasts is less than connections live that are left alone: 60 seconds in
// SYN_RECV and CLOSE_WAIT. Of those that were reset, 10 seconds, resetLasts is a part.
const (
	epochLasts = 30 * time.Second
	resetLasts = 5 * time.Second
)

// settle waits until connections that were reset are gone on both machines.
func (w *world) settle() {
	w.Helper()
	time.Sleep(time.Until(w.last.Add(12500 * time.Millisecond)))
	w.first, w.last = time.Time{}, time.Time{}
	for _, s := range w.services {
		s.conns = slices.DeleteFunc(s.conns, func(c *conn) bool { return c.reset })
		s.logf("connections that were reset end")
		w.compare(s)
	}
}

// fromClient and fromServer are packets of a connection.
func (w *world) fromClient(s *service, c *conn, flags packet.Flag) outcome {
	w.Helper()
	s.logf("client %s sends %s", c.client, words(s, flags))
	out := w.send(s, clients, w.packet(s, c.client, s.frontend.Addr, flags))
	switch {
	case flags&packet.SYN != 0:
		c.acked, c.closing = false, false
	case flags&packet.ACK != 0 && out.What == "server":
		c.acked = true
	}
	c.closes(flags)
	return out
}

func (c *conn) closes(flags packet.Flag) {
	c.closing = c.closing || flags&(packet.FIN|packet.RST) != 0
}

func (w *world) fromServer(s *service, c *conn, flags packet.Flag) outcome {
	w.Helper()
	c.closes(flags)
	s.logf("server %s sends %s to %s", c.server, words(s, flags), c.client)
	return w.send(s, servers, w.packet(s, c.server, c.client, flags))
}

func words(s *service, flags packet.Flag) (out string) {
	if s.udp {
		return "a datagram"
	}
	for i, word := range []string{"FIN ", "SYN ", "RST ", "", "ACK"} {
		if flags&(1<<i) != 0 {
			out += word
		}
	}
	return out
}

func (w *world) packet(s *service, src, dst netip.AddrPort, flags packet.Flag) packet.Packet {
	p := packet.Packet{Src: src, Dst: dst, Protocol: s.frontend.Protocol, Seq: 1000, Ack: 2000}
	if !s.udp {
		p.Flags = flags
	}
	if s.udp || flags == packet.ACK {
		p.Payload = make([]byte, w.rng.IntN(80))
	}
	return p
}

// connect begins a connection of a new client, and takes it some way.
func (w *world) connect(s *service) {
	w.Helper()
	s.left--
	w.tally[s.scheduler].connections++
	c := &conn{client: w.client()}
	out := w.fromClient(s, c, packet.SYN)
	s.logf("  %s", out)
	if out.What != "server" {
		return
	}
	c.server = out.Dst
	s.conns = append(s.conns, c)
	if w.rng.IntN(5) == 0 {
		return
	}
	w.fromServer(s, c, packet.SYN|packet.ACK)
	if !s.udp {
		w.fromClient(s, c, packet.ACK)
	}
}

// act does something to a connection that is there.
func (w *world) act(s *service) {
	w.Helper()
	i := w.rng.IntN(len(s.conns))
	c := s.conns[i]
	if s.udp {
		w.talk(s, c)
		return
	}
	switch n := w.rng.IntN(12); {
	case n < 2:
		w.fromClient(s, c, packet.ACK)
	case n < 4:
		w.fromServer(s, c, c.bare())
	case n < 6:
		w.fromClient(s, c, packet.FIN|packet.ACK)
	case n < 8:
		w.fromServer(s, c, packet.FIN|packet.ACK)
	case n < 10:
		w.talk(s, c)
	case !w.late():
		w.fromClient(s, c, packet.ACK)
	case n < 11:
		w.reset(c)
		w.fromClient(s, c, packet.RST)
	default:
		w.reset(c)
		w.fromServer(s, c, packet.RST|packet.ACK)
	}
	if c.reset {
		w.reset(c) // every packet puts its end off
	}
}

func (w *world) reset(c *conn) {
	c.reset = true
	w.last = time.Now()
	if w.first.IsZero() {
		w.first = w.last
	}
}

// talk is a SYN on the port of a connection, or a datagram, which may have another
// server then, and an answer.
func (w *world) talk(s *service, c *conn) {
	w.Helper()
	if w.countsReplaced(s, c) {
		w.fromClient(s, c, packet.ACK)
		return
	}
	out := w.fromClient(s, c, packet.SYN)
	s.logf("  %s", out)
	if out.What != "server" {
		w.refused(s, c, out)
		return
	}
	if c.server != out.Dst {
		c.server, c.reset = out.Dst, false
	}
	if !s.udp {
		w.compare(s) // the entry that was there ends with a timer
	}
	if w.rng.IntN(2) == 0 {
		w.fromServer(s, c, packet.SYN|packet.ACK)
	}
}
