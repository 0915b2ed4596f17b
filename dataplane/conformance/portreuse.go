// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"slices"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// again is what a SYN of a client port that has a connection leads to.
type again int

const (
	stays again = iota // the connection's backend
	picks              // a backend of its own
	isOff              // dropped
)

// situation is a connection to server 2 of "2 1" that meets a SYN of its client.
type situation struct {
	name     string
	lost     lb.Lost
	affinity bool
	packets  string // of the client (c) and the server (s), as in scripts
	list     string // what the service has then
	// what each of the words makes of it
	any, finished, never again
}

func situations() []situation {
	const (
		inTimeWait = open + "cFA- sFA- cA-"
		inClose    = open + "cR-"
		refused    = "cS+ sRA-"
		closing    = open + "cFA-"
		halfOpen   = "cS+"
		all        = "2 1"
		quiesced   = "2:0 1"
		removed    = "1"
		sick       = "2! 1"
	)
	keep, reset, drop := lb.LostKeep, lb.LostReset, lb.LostDrop
	return []situation{
		{"established", keep, false, open, all, stays, stays, stays},
		{"half-open", keep, false, halfOpen, all, stays, stays, stays},
		{"closed by the client alone", keep, false, closing, all, stays, stays, stays},
		{"in TIME_WAIT", keep, false, inTimeWait, all, picks, picks, stays},
		{"in CLOSE", keep, false, inClose, all, picks, picks, stays},
		{"refused", keep, false, refused, all, picks, picks, stays},
		{"in TIME_WAIT, reset", reset, false, inTimeWait, all, picks, picks, stays},
		{"in TIME_WAIT, dropped", drop, false, inTimeWait, all, picks, picks, stays},
		{"quiesced", keep, false, open, quiesced, picks, stays, stays},
		{"quiesced, half-open", keep, false, halfOpen, quiesced, picks, stays, stays},
		{"quiesced, in TIME_WAIT", keep, false, inTimeWait, quiesced, picks, picks, stays},
		{"quiesced, reset", reset, false, open, quiesced, picks, picks, picks},
		{"quiesced, in TIME_WAIT, reset", reset, false, inTimeWait, quiesced, picks, picks, picks},
		{"quiesced, dropped", drop, false, open, quiesced, picks, stays, stays},
		{"removed", keep, false, open, removed, picks, stays, stays},
		{"removed, in TIME_WAIT", keep, false, inTimeWait, removed, picks, picks, stays},
		{"removed, reset", reset, false, open, removed, picks, picks, picks},
		{"removed, in TIME_WAIT, reset", reset, false, inTimeWait, removed, picks, picks, picks},
		{"removed, dropped", drop, false, open, removed, picks, isOff, isOff},
		{"removed, in TIME_WAIT, dropped", drop, false, inTimeWait, removed, picks, picks, isOff},
		{"unhealthy", keep, false, open, sick, picks, stays, stays},
		{"unhealthy, in CLOSE", keep, false, inClose, sick, picks, picks, stays},
		{"unhealthy, reset", reset, false, open, sick, picks, picks, picks},
		{"unhealthy, dropped", drop, false, open, sick, picks, isOff, isOff},
		{"with affinity, established", keep, true, open, all, stays, stays, stays},
		{"with affinity, in TIME_WAIT", keep, true, inTimeWait, all, picks, stays, stays},
		{"with affinity, in CLOSE, reset", reset, true, inClose, all, picks, stays, stays},
		{"with affinity, quiesced, in TIME_WAIT", keep, true, inTimeWait, quiesced, picks, stays, stays},
		{"with affinity, quiesced, reset", reset, true, open, quiesced, picks, picks, picks},
		{"with affinity, removed", keep, true, open, removed, picks, stays, stays},
		{"with affinity, removed, dropped", drop, true, inTimeWait, removed, picks, isOff, isOff},
	}
}

// portReuseCases are about SYNs of client ports that have a connection.
func portReuseCases() []testCase {
	var out []testCase
	for _, r := range []lb.Reuse{lb.ReuseAny, lb.ReuseFinished, lb.ReuseNever} {
		out = append(out, testCase{"a SYN on a connection's tuple: " + r.String(), lb.TCP, func(e *env) {
			for i, s := range situations() {
				e.part(s.name, func(e *env) { s.meets(e, r, 1+i, false) })
			}
		}}, testCase{"a SYN on a connection's tuple: " + r.String() + ", said at the last moment", lb.TCP, func(e *env) {
			for i, s := range situations() {
				e.part(s.name, func(e *env) { s.meets(e, r, 1+i, true) })
			}
		}})
	}
	return slices.Concat(out, moreReuseCases())
}

// meets plays the situation at a service of its own. late says that the word for
// reuse comes just before the SYN.
func (s situation) meets(e *env, r lb.Reuse, vip int, late bool) {
	apply := func(list string, r lb.Reuse) {
		svc := e.service(s.name, "rr", list, vip)
		svc.Lost, svc.Reuse = s.lost, r
		if s.affinity {
			affinity(time.Hour)(svc)
		}
		e.apply(svc)
	}
	before := r
	if late {
		before = (r + 1) % (lb.ReuseNever + 1)
	}
	apply("2 1", before)
	c, active := e.playsAt(s.name, 2, e.client(), e.vip(vip), s.packets)
	apply(s.list, before)
	apply(s.list, r)
	switch map[lb.Reuse]again{lb.ReuseAny: s.any, lb.ReuseFinished: s.finished, lb.ReuseNever: s.never}[r] {
	case stays:
		c.again(2)
		c.replies(SYN | ACK)
		e.wantLoad(s.name, 2, 1, 0)
		e.wantLoad(s.name, 1, 0, 0)
		if n := e.backend(s.name, 2).Connections; n != 1 {
			e.Errorf("server 2 counts %d connections, want 1", n)
		}
	case picks:
		server := 1
		if s.affinity && s.list == "2 1" {
			server = 2 // but as a new one
		}
		c.again(server)
		c.replies(SYN | ACK)
		e.wantLoad(s.name, server, 1, 0)
		e.wantLoad(s.name, 3-server, 0, 0)
		if n, want := e.backend(s.name, server).Connections, uint64(server); n != want {
			e.Errorf("server %d counts %d connections, want %d", server, n, want)
		}
	case isOff:
		e.wants(e.fromClient(c.client, c.vip, SYN), dropped("backend_gone"))
		if active {
			e.wantLoad(s.name, 2, 1, 0)
		} else {
			e.wantLoad(s.name, 2, 0, 1)
		}
	}
}

func moreReuseCases() []testCase {
	return []testCase{
		{"a datagram of a flow is no new flow, whatever is said", lb.UDP, func(e *env) {
			for _, r := range []lb.Reuse{lb.ReuseAny, lb.ReuseFinished, lb.ReuseNever} {
				e.web("2 1", reuse(r), lost(lb.LostReset))
				c := e.open()
				e.web("2:0 1:0", reuse(r), lost(lb.LostReset))
				c.stays()
			}
		}},
		{"a connection that is never to be replaced goes on from its end", lb.TCP, func(e *env) {
			e.web("2 1", reuse(lb.ReuseNever))
			c := e.open()
			c.closes()
			e.rig.Advance(timeWait - slack)
			c.again(2)
			c.replies(SYN | ACK)
			c.sends(ACK)
			e.rig.Advance(established - slack)
			c.stays()
			e.wantLoad("web", 2, 1, 0)
			e.rig.Advance(established + slack)
			e.wantLoad("web", 2, 0, 0)
			c.again(1)
		}},
		{"a SYN that nobody can take ends its connection all the same", lb.TCP, func(e *env) {
			for i, r := range []lb.Reuse{lb.ReuseAny, lb.ReuseFinished} {
				name := r.String()
				svc := e.service(name, "rr", "2", 1+i)
				reuse(r)(svc)
				e.apply(svc)
				c := e.openAt(e.client(), e.vip(1+i))
				c.closes()
				then := e.service(name, "rr", "2:0", 1+i)
				reuse(r)(then)
				e.apply(then)
				e.wants(e.fromClient(c.client, c.vip, SYN), refused("empty_pool", Unreachable))
				e.wantLoad(name, 2, 0, 0)
			}
		}},
	}
}
