// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// manyClients is how many addresses the cases of hashing schedulers look at.
const manyClients = 60

func (e *env) many() []netip.Addr {
	var out []netip.Addr
	for n := range manyClients {
		out = append(out, e.addr(clientNet, 1<<14+n))
	}
	return out
}

// bucket is sh's and dh's, of 256, written down once more: the top byte of a
// product.
func bucket(addr netip.Addr, port uint16) int {
	var sum uint32
	for b := addr.AsSlice(); len(b) > 0; b = b[4:] {
		sum ^= binary.BigEndian.Uint32(b)
	}
	return int((sum + uint32(port)) * 0x61C88647 >> 24)
}

// owners are those of the buckets: each word of turns takes one, round and round.
func owners(turns string) (out [256]string) {
	words := strings.Fields(turns)
	for i := range out {
		out[i] = words[i%len(words)]
	}
	return out
}

// fallback is where sh-fallback goes from a bucket, "-" being who cannot serve.
func fallback(of [256]string, bucket int) string {
	for off := range of {
		if o := of[((off+bucket)%256+bucket)%256]; o != "-" {
			return o
		}
	}
	return "-"
}

// wantBuckets wants each client at the owner of its bucket.
func (e *env) wantBuckets(owner func(bucket int) string) {
	e.Helper()
	for _, addr := range e.many() {
		e.wantPicksOf(addr, owner(bucket(addr, 0)))
	}
}

// of returns what looks up an owner.
func of(turns string) func(int) string {
	all := owners(turns)
	return func(bucket int) string { return all[bucket] }
}

func sourceCases() []testCase {
	return []testCase{
		{"sh: the client's bucket says the backend", 0, func(e *env) {
			e.web("3:2 2 1:3", scheduler("sh", 0))
			e.wantBuckets(of("3 3 2 1 1 1"))
		}},
		{"sh: a client stays, whatever its port", 0, func(e *env) {
			e.web("3 2 1", scheduler("sh", 0))
			for _, addr := range e.many()[:10] {
				first := e.pick(e.clientAt(addr), e.vip(1))
				e.wantPicksOf(addr, strings.TrimSpace(strings.Repeat(first+" ", 9)))
			}
		}},
		{"sh: who cannot serve has one bucket, and it refuses", 0, func(e *env) {
			e.web("4:0 3:2 2:2! 1", scheduler("sh", 0))
			e.wantBuckets(of("- 3 3 - 1"))
		}},
		{"sh: each change fills the buckets anew", 0, func(e *env) {
			for list, turns := range map[string]string{"3 2 1": "3 2 1", "3 1": "3 1", "3:2 1": "3 3 1", "": "-", "4 3:2 1": "4 3 3 1"} {
				e.web(list, scheduler("sh", 0))
				e.wantBuckets(of(turns))
			}
		}},
		{"sh-fallback: others take what a backend cannot", 0, func(e *env) {
			e.web("3:0 2:2! 1:3", scheduler("sh", lb.SchedulerFallback))
			all := owners("- - 1 1 1")
			e.wantBuckets(func(bucket int) string {
				if all[bucket] != "-" {
					return all[bucket]
				}
				return fallback(all, bucket)
			})
			e.web("3:0 2! 1:0", scheduler("sh", lb.SchedulerFallback))
			e.wantPicks("- -")
		}},
		{"sh-fallback: whoever is first in the client's order", 0, func(e *env) {
			e.web("4 3:0 2 1", scheduler("sh", lb.SchedulerFallback))
			all := owners("4 - 2 1")
			e.wantBuckets(func(bucket int) string {
				if all[bucket] != "-" {
					return all[bucket]
				}
				return fallback(all, bucket)
			})
		}},
		{"sh-port: address and port say the backend", 0, func(e *env) {
			e.web("3:2 2 1", scheduler("sh", lb.SchedulerPort))
			all, seen := owners("3 3 2 1"), map[string]bool{}
			for range 60 {
				client := e.clientAt(e.host(1))
				want := all[bucket(client.Addr(), client.Port())]
				if got := e.pick(client, e.vip(1)); got != want {
					e.Errorf("%s went to %s, want %s", client, got, want)
				}
				seen[want] = true
			}
			if len(seen) != 3 {
				e.Errorf("ports of one client at %d servers, want 3", len(seen))
			}
		}},
	}
}

func destinationCases() []testCase {
	return []testCase{
		{"dh: the VIP's bucket says the backend, whoever the client is", 0, func(e *env) {
			e.apply(e.service("web", "dh", "3:9 2 1", 1, 2, 3, 4, 5, 6, 7, 8))
			all, seen := owners("3 2 1"), map[string]bool{}
			for n := 1; n <= 8; n++ {
				want := all[bucket(e.vip(n).Addr(), 0)]
				e.wantPicksAt(e.vip(n), want+" "+want)
				if got := e.pick(e.clientAt(e.host(n)), e.vip(n)); got != want {
					e.Errorf("another client went to %s, want %s", got, want)
				}
				seen[want] = true
			}
			if len(seen) < 2 {
				e.Errorf("all VIPs are at one server")
			}
		}},
		{"dh: who cannot serve keeps its buckets, and they refuse", 0, func(e *env) {
			e.apply(e.service("web", "dh", "4 3:0 2! 1", 1, 2, 3, 4, 5, 6, 7, 8))
			all := owners("4 - - 1")
			for n := 1; n <= 8; n++ {
				e.wantPicksAt(e.vip(n), all[bucket(e.vip(n).Addr(), 0)])
			}
		}},
	}
}

// places are where each of many clients goes.
func (e *env) places() []string {
	e.Helper()
	var out []string
	for _, addr := range e.many() {
		out = append(out, e.pick(e.clientAt(addr), e.vip(1)))
	}
	return out
}

// wantMoved compares places before and after: only clients of left may have moved,
// and of the others no more than a few. It returns where those of left are.
func (e *env) wantMoved(before, after []string, left string, few int) (now []string) {
	e.Helper()
	moved := 0
	for i := range before {
		switch {
		case before[i] == left:
			now = append(now, after[i])
		case before[i] != after[i]:
			moved++
		}
	}
	if moved > few {
		e.Errorf("%d clients of others than %s moved, want at most %d", moved, left, few)
	}
	if len(now) == 0 {
		e.Fatalf("no client was at %s: %v", left, before)
	}
	return now
}

func maglevCases() []testCase {
	mh := func(flags lb.SchedulerFlags) change { return scheduler("mh", flags) }
	return []testCase{
		{"mh: a client stays, whatever its port, and all get some", 0, func(e *env) {
			e.web("4 3 2 1", mh(0))
			before := e.places()
			e.wantMoved(before, e.places(), "1", 0)
			for n := 1; n <= 4; n++ {
				if !slices.Contains(before, fmt.Sprint(n)) {
					e.Errorf("no client is at server %d", n)
				}
			}
		}},
		{"mh: a quiesced backend keeps its slots, and they refuse", 0, func(e *env) {
			e.web("4 3 2 1", mh(0))
			before := e.places()
			for _, list := range []string{"4 3 2:0 1", "4 3 2! 1"} {
				e.web(list, mh(0))
				for _, now := range e.wantMoved(before, e.places(), "2", 0) {
					if now != "-" {
						e.Errorf("a client of server 2 went to %s, want it refused", now)
					}
				}
				e.web("4 3 2 1", mh(0))
				e.wantMoved(before, e.places(), "1", 0)
				e.wantMoved(before, e.places(), "2", 0)
			}
		}},
		{"mh-fallback: others take what a quiesced backend cannot", 0, func(e *env) {
			e.web("4 3 2 1", mh(lb.SchedulerFallback))
			before := e.places()
			e.web("4 3 2:0 1", mh(lb.SchedulerFallback))
			seen := map[string]bool{}
			for _, now := range e.wantMoved(before, e.places(), "2", 0) {
				seen[now] = true
			}
			if len(seen) != 3 || seen["2"] || seen["-"] {
				e.Errorf("clients of server 2 went to %v, want them spread over 4, 3 and 1", seen)
			}
			e.web("4 3 2 1", mh(lb.SchedulerFallback))
			e.wantMoved(before, e.places(), "2", 0)
		}},
		{"mh: few clients of others move when a backend is removed, or added", 0, func(e *env) {
			e.web("5 4 3 2 1", mh(0))
			before := e.places()
			e.web("5 4 2 1", mh(0))
			without := e.places()
			for _, now := range e.wantMoved(before, without, "3", manyClients/10) {
				if now == "3" || now == "-" {
					e.Errorf("a client of server 3 went to %s", now)
				}
			}
			e.web("6 5 4 2 1", mh(0))
			e.wantMoved(e.places(), without, "6", manyClients/10)
		}},
		{"mh: weights count, and the last that was not zero", 0, func(e *env) {
			e.web("2:3 1", mh(0))
			before, n := e.places(), 0
			for _, p := range before {
				if p == "2" {
					n++
				}
			}
			if n < manyClients*6/10 || n > manyClients*9/10 {
				e.Errorf("%d of %d clients at the server of weight 3 to 1", n, manyClients)
			}
			e.web("2:0 1", mh(0))
			e.web("2:0 1", mh(lb.SchedulerFallback))
			e.web("2:0 1", mh(0))
			for _, now := range e.wantMoved(before, e.places(), "2", 0) {
				if now != "-" {
					e.Errorf("a client of server 2 went to %s, want it refused", now)
				}
			}
		}},
		{"mh: who never had a weight has no slots", 0, func(e *env) {
			e.web("2:0 1", mh(0))
			if n := strings.Count(strings.Join(e.places(), " "), "1"); n != manyClients {
				e.Errorf("%d of %d clients at server 1", n, manyClients)
			}
			e.web("2:0 1:0", mh(0))
			e.wantPicks("- -")
			e.web("", mh(0))
			e.wantPicks("-")
		}},
		{"mh-port: ports of one client spread, each stays", 0, func(e *env) {
			e.web("4 3 2 1", mh(lb.SchedulerPort))
			seen := map[string]bool{}
			for range 40 {
				client := e.clientAt(e.host(1))
				first := e.pick(client, e.vip(1))
				e.web("4 3 2 1 9:0", mh(lb.SchedulerPort))
				if got := e.pick(client, e.vip(1)); got != first {
					e.Errorf("%s went to %s and then to %s", client, first, got)
				}
				seen[first] = true
			}
			if len(seen) != 4 {
				e.Errorf("ports of one client at %d servers, want 4", len(seen))
			}
		}},
		{"mh: services of the same backends agree, and change apart", 0, func(e *env) {
			shop := e.service("shop", "mh", "3 2 1", 2)
			e.apply(e.service("web", "mh", "3 2 1", 1), shop)
			before := e.places()
			e.apply(e.service("web", "mh", "3 1", 1), shop)
			for i, addr := range e.many() {
				if got := e.pick(e.clientAt(addr), e.vip(2)); got != before[i] {
					e.Errorf("%s went to %s, want %s", addr, got, before[i])
				}
			}
			e.wantMoved(before, e.places(), "2", manyClients/5)
		}},
	}
}
