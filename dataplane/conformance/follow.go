// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// followCases hold each scheduler, with each of its flags, against package sched,
// while its backends change at random and flows come and go.
func followCases() []testCase {
	var out []testCase
	for _, name := range sched.Names() {
		s, err := sched.Find(name)
		for flags := lb.SchedulerFlags(0); err == nil && flags <= s.Flags; flags++ {
			if flags&^s.Flags != 0 {
				continue
			}
			words := strings.Join(append([]string{name}, sched.FlagNames(name, flags)...), ", ")
			out = append(out, testCase{words + " follows package sched through changes", 0, func(e *env) {
				follow(e, scheduler(name, flags), e.list("4:3 3:2 2:1 1:4"), 40, 7)
			}})
		}
		if s.Rule != sched.Hash {
			out = append(out, testCase{name + " follows package sched among a hundred backends", 0, func(e *env) {
				follow(e, scheduler(name, 0), e.hundred(), 5, 60)
			}})
		}
	}
	return out
}

// hundred are backends of which most are soon overloaded.
func (e *env) hundred() []lb.Backend {
	var out []lb.Backend
	for n := range 100 {
		b := lb.Backend{Addr: e.server(100 - n), Weight: uint16(1 + n*n%7)}
		if n%30 != 0 {
			b.Upper = uint32(n % 3)
		}
		out = append(out, b)
	}
	return out
}

// follower knows where the next flow goes: by package sched, and by its own count
// of the flows that there are.
type follower struct {
	*env
	random *rand.Rand
	svc    *lb.Service
	run    *sched.Run
	at     sched.Position
	counts map[netip.AddrPort]*count // by backend, those that were removed too
	flows  []followed
}

type count struct {
	in               lb.Backend
	active, inactive uint32
	overloaded       bool
}

type followed struct {
	*conn
	active bool
}

// follow changes the service so many times, and begins fewer flows than so many
// after each change.
func follow(e *env, scheduler change, list []lb.Backend, rounds, flows int) {
	f := &follower{env: e, random: rand.New(rand.NewPCG(1, 2)), counts: make(map[netip.AddrPort]*count)}
	for round := range rounds {
		if round > 0 {
			list = e.edit(f.random, list)
		}
		f.set(e.changed("", scheduler, func(s *lb.Service) { s.Backends = list }))
		for range f.random.IntN(flows) {
			f.next()
		}
		switch {
		case round%8 == 7:
			f.expire()
		case e.proto == lb.TCP && f.random.IntN(2) == 0:
			f.reset()
		}
		f.wantCounts()
		if e.Failed() {
			e.Fatalf("in round %d, backends %v", round, list)
		}
	}
}

// set applies a service of other backends.
func (f *follower) set(svc *lb.Service) {
	run, err := sched.Compile(svc, svc.Backends, f.run, f.at)
	if err != nil {
		f.Fatalf("compile %v: %v", svc.Backends, err)
	}
	f.apply(svc)
	f.svc, f.run, f.at = svc, run, sched.Position{Next: run.Start}
	for _, b := range svc.Backends {
		c := f.counts[b.Addr]
		if c == nil {
			c = &count{}
			f.counts[b.Addr] = c
		}
		c.in = b
		c.judge()
	}
}

// judge is IPVS's rule of thresholds.
func (c *count) judge() {
	lower := c.in.Lower
	if lower == 0 {
		lower = c.in.Upper - c.in.Upper/4
	}
	switch n := c.active + c.inactive; {
	case c.in.Upper == 0:
		c.overloaded = false
	case n >= c.in.Upper:
		c.overloaded = true
	case n < lower:
		c.overloaded = false
	}
}

// add counts n flows more.
func (f *follower) add(server netip.AddrPort, active bool, n int) {
	c := f.counts[server]
	if active {
		c.active += uint32(n)
	} else {
		c.inactive += uint32(n)
	}
	c.judge()
}

// Usable implements sched.Table.
func (f *follower) Usable(i int) bool {
	b := &f.svc.Backends[i]
	return b.Usable() && !f.counts[b.Addr].overloaded
}

// Load implements sched.Table.
func (f *follower) Load(i int) (active, inactive uint32) {
	c := f.counts[f.svc.Backends[i].Addr]
	return c.active, c.inactive
}

// next begins a flow, wants it where package sched says, and establishes it.
func (f *follower) next() {
	f.Helper()
	client, want := f.clientAt(f.host(f.random.IntN(100))), "-"
	i, ok := f.run.Select(sched.Packet{Src: client.Addr(), Dst: f.vip(1).Addr(), SrcPort: client.Port()}, &f.at, f)
	if ok {
		want = fmt.Sprint(f.serverNumber(f.svc.Backends[i].Addr))
	}
	got := f.pick(client, f.vip(1))
	if got != want {
		f.Fatalf("new flow of %s went to %s, want %s", client, got, want)
	}
	if !ok {
		return
	}
	server := f.svc.Backends[i].Addr
	c := &conn{e: f.env, client: client, source: client, vip: f.vip(1), server: f.serverNumber(server)}
	c.replies(SYN | ACK)
	c.sends(ACK)
	f.flows = append(f.flows, followed{c, f.proto == lb.TCP})
	f.add(server, f.proto == lb.TCP, 1)
}

// reset has a server reset some of the connections: they are no longer active.
func (f *follower) reset() {
	for i := range f.flows {
		c := &f.flows[i]
		if !c.active || f.random.IntN(3) > 0 {
			continue
		}
		c.replies(RST | ACK)
		c.active = false
		n := f.counts[f.server(c.server)]
		n.active, n.inactive = n.active-1, n.inactive+1
	}
}

// expire lets some flows end, all that were reset among them.
func (f *follower) expire() {
	var stay []followed
	var conns []*conn
	for _, c := range f.flows {
		serves := slices.ContainsFunc(f.svc.Backends, func(b lb.Backend) bool { return b.Addr == f.server(c.server) && !b.Unhealthy })
		if serves && c.active == (f.proto == lb.TCP) && f.random.IntN(3) > 0 {
			stay, conns = append(stay, c), append(conns, c.conn)
		} else {
			f.add(f.server(c.server), c.active, -1)
		}
	}
	f.flows = stay
	f.endAllBut(conns...)
}

func (f *follower) wantCounts() {
	f.Helper()
	for _, b := range f.svc.Backends {
		c := f.counts[b.Addr]
		f.wantLoad("web", f.serverNumber(b.Addr), uint64(c.active), uint64(c.inactive))
	}
}

// edit returns a copy of list with one change: an addition at the head, a
// deletion, another weight, other thresholds, or other health.
func (e *env) edit(random *rand.Rand, list []lb.Backend) []lb.Backend {
	list = slices.Clone(list)
	i := 0
	if len(list) > 0 {
		i = random.IntN(len(list))
	}
	switch n := random.IntN(6); {
	case n == 0 && len(list) > 1:
		return slices.Delete(list, i, i+1)
	case n == 1 && len(list) > 0:
		list[i].Weight = (list[i].Weight + 1 + uint16(random.IntN(4))) % 6
		return list
	case n == 2 && len(list) > 0:
		list[i].Upper = random.Uint32N(7)
		list[i].Lower = random.Uint32N(list[i].Upper + 1)
		return list
	case n == 3 && len(list) > 0:
		list[i].Unhealthy = !list[i].Unhealthy
		return list
	}
	for n := 1; ; n++ {
		free := !slices.ContainsFunc(list, func(b lb.Backend) bool { return b.Addr == e.server(n) })
		if free {
			return slices.Insert(list, 0, lb.Backend{Addr: e.server(n), Weight: uint16(random.IntN(5))})
		}
	}
}
