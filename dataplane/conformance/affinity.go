// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// affinityCases are about clients that are kept at their backend.
func affinityCases() []testCase {
	return slices.Concat(keepCases(), networkCases(), endCases(), otherBackendCases(), affinityEditCases())
}

func keepCases() []testCase {
	return []testCase{
		{"a client's new flows go where its first went", 0, func(e *env) {
			e.web("3 2 1", affinity(time.Hour))
			for n, want := range []string{"3 3", "2 2", "1 1", "3 3"} {
				e.wantPicksOf(e.host(n), want)
			}
			for n, want := range []string{"3", "2", "1", "3"} {
				e.wantPicksOf(e.host(n), want)
			}
			e.wantFlows("web", 3, 6)
			e.wantFlows("web", 2, 3)
			e.wantFlows("web", 1, 3)
		}},
		{"they take no turn of others", 0, func(e *env) {
			e.web("3 2 1", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "3 3 3 3")
			e.wantPicksOf(e.host(2), "2")
			e.wantPicksOf(e.host(1), "3")
			e.wantPicksOf(e.host(3), "1")
		}},
		{"established flows are as ever", 0, func(e *env) {
			e.web("2 1", affinity(time.Hour))
			a, b := e.openAt(e.clientAt(e.host(1)), e.vip(1)), e.openAt(e.clientAt(e.host(2)), e.vip(1))
			for range 3 {
				a.stays()
				b.stays()
			}
			if a.server != 2 || b.server != 1 {
				e.Errorf("went to %d and %d, want 2 and 1", a.server, b.server)
			}
		}},
		{"a client is at one backend through all frontends", 0, func(e *env) {
			svc := e.service("web", "rr", "2 1", 1, 2)
			affinity(time.Hour)(svc)
			e.apply(svc)
			for range 3 {
				e.wantPicksOf(e.host(1), "2")
				if got := e.pick(e.clientAt(e.host(1)), e.vip(2)); got != "2" {
					e.Errorf("through VIP 2 it went to %s, want 2", got)
				}
			}
		}},
		{"each service keeps its clients itself", 0, func(e *env) {
			web, shop := e.service("web", "rr", "2 1", 1), e.service("shop", "rr", "2 1", 2)
			affinity(time.Hour)(web)
			affinity(time.Hour)(shop)
			e.apply(web, shop)
			e.wantPicksOf(e.host(1), "2 2")
			e.wantPicksOf(e.host(2), "1")
			e.wantPicksAt(e.vip(2), "2")
			for n, want := range []string{"1", "2"} {
				if got := e.pick(e.clientAt(e.host(2-n)), e.vip(2)); got != want {
					e.Errorf("%s went to %s, want %s", e.host(2-n), got, want)
				}
			}
			e.wantPicksOf(e.host(1), "2")
		}},
		{"clients are picked for by any scheduler, once", 0, func(e *env) {
			e.web("2:1 1:9", affinity(time.Hour), scheduler("wlc", 0))
			e.wantPicksOf(e.host(1), "2 2 2")
			e.wantPicksOf(e.host(2), "1 1")
			e.wantPicksOf(e.host(3), "1")
			e.wantPicksOf(e.host(1), "2")
			e.web("2:1 1:9", affinity(time.Hour), scheduler("sh", lb.SchedulerPort))
			e.wantPicksOf(e.host(1), "2 2 2 2 2")
		}},
		{"who is refused is not kept", 0, func(e *env) {
			e.web("1:0", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "- -")
			e.web("2 1", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "2 2")
		}},
		{"a client is kept at an overloaded backend", 0, func(e *env) {
			e.web("2^2 1", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "2 2 2 2")
			e.wantPicksOf(e.host(2), "1")
			e.wantPicksOf(e.host(3), "1")
			e.wantPicksOf(e.host(1), "2")
			e.wantFlows("web", 2, 5)
		}},
		{"what passes by is not a client", 0, func(e *env) {
			e.web("2 1", affinity(time.Hour))
			if e.proto == lb.TCP {
				e.wants(e.fromClient(e.clientAt(e.host(1)), e.vip(1), ACK), refused("no_flow", Reset))
			}
			e.wants(e.fromClient(e.clientAt(e.host(1)), e.unknown(), SYN), refused("unknown_port", Unreachable))
			e.wantPicksOf(e.host(2), "2")
			e.wantPicksOf(e.host(1), "1")
		}},
	}
}

// flip is addr with another bit, of which 0 is the first.
func flip(addr netip.Addr, bit int) netip.Addr {
	b := addr.AsSlice()
	b[bit/8] ^= 0x80 >> (bit % 8)
	out, _ := netip.AddrFromSlice(b)
	return out
}

// networkCases are about how much of an address counts.
func networkCases() []testCase {
	prefix := func(e *env, bits int) change {
		return func(s *lb.Service) { s.Affinity = lb.Affinity{Timeout: time.Hour, Prefix: uint8(bits)} }
	}
	return []testCase{
		{"so many bits of an address count", 0, func(e *env) {
			sizes := []int{8, 17, 24, 31, 32}
			if e.family == lb.IPv6 {
				sizes = []int{8, 31, 32, 33, 64, 65, 96, 100, 127, 128}
			}
			for i, bits := range sizes {
				e.part(fmt.Sprint(bits), func(e *env) {
					vip := e.vip(1 + i)
					svc := e.service(fmt.Sprint("web", bits), "rr", "3 2 1", 1+i)
					prefix(e, bits)(svc)
					e.apply(svc)
					want := func(addr netip.Addr, want string) {
						e.Helper()
						if got := e.pick(e.clientAt(addr), vip); got != want {
							e.Errorf("%s went to %s, want %s", addr, got, want)
						}
					}
					one := e.host(1)
					want(one, "3")
					for bit := bits; bit < e.family.Bits(); bit++ {
						want(flip(one, bit), "3")
					}
					want(flip(one, bits-1), "2")
					want(flip(one, max(0, bits-9)), "1")
					want(flip(one, e.family.Bits()-1), map[bool]string{false: "3", true: "2"}[bits == e.family.Bits()])
				})
			}
		}},
		{"no bit counts: all clients are one", 0, func(e *env) {
			e.web("2 1", prefix(e, 0))
			for n := range 5 {
				e.wantPicksOf(e.host(n), "2")
			}
		}},
		{"another mask makes other clients", 0, func(e *env) {
			e.web("3 2 1", affinity(time.Hour))
			one := e.host(1)
			last := e.family.Bits() - 1
			e.wantPicksOf(one, "3")
			e.wantPicksOf(flip(one, last-1), "2")
			e.web("3 2 1", prefix(e, e.family.Bits()-8))
			e.wantPicksOf(one, "1 1")
			e.wantPicksOf(flip(one, last-1), "1")
		}},
	}
}

// otherBackendCases are about clients whose backend takes nothing any more.
func otherBackendCases() []testCase {
	keep := affinity(time.Hour)
	quiescedToo := func(s *lb.Service) { s.Affinity.Quiesced = true }
	var out []testCase
	for _, c := range []struct{ name, list, nobody string }{
		{"a quiesced", "3 2:0 1", "3:0 2:0"}, {"an unhealthy", "3 2! 1", "3:0 2!"}, {"a removed", "3 1", "3:0"},
	} {
		out = append(out, testCase{"a client of " + c.name + " backend gets another, for good", 0, func(e *env) {
			e.web("3 2 1", keep)
			e.wantPicksOf(e.host(1), "3 3")
			e.wantPicksOf(e.host(2), "2 2")
			e.web(c.list, keep)
			e.wantPicksOf(e.host(2), "1 1")
			e.wantPicksOf(e.host(1), "3 3")
			e.web("3 2 1", keep)
			e.wantPicksOf(e.host(2), "1 1")
		}}, testCase{"a client that does not come meanwhile is still at " + c.name + " backend when it is back", 0, func(e *env) {
			e.web("3 2 1", keep)
			e.wantPicksOf(e.host(1), "3")
			e.wantPicksOf(e.host(2), "2")
			e.web(c.list, keep)
			e.wantPicksOf(e.host(3), "1")
			e.web("3 2 1", keep)
			e.wantPicksOf(e.host(2), "2 2")
		}}, testCase{"a client of " + c.name + " backend is free also if nobody could take it", 0, func(e *env) {
			weighs := scheduler("wlc", 0)
			e.web("3:9 2", keep, weighs)
			e.wantPicksOf(e.host(1), "3")
			e.wantPicksOf(e.host(2), "2")
			e.web(c.nobody, keep, weighs)
			e.wantPicksOf(e.host(2), "-")
			e.web("3:9 2", keep, weighs)
			e.wantPicksOf(e.host(2), "3 3")
		}})
	}
	return append(out,
		testCase{"quiesced backends keep their clients, if they are to", 0, func(e *env) {
			e.web("2 1", keep, quiescedToo)
			e.wantPicksOf(e.host(1), "2")
			e.web("2:0 1", keep, quiescedToo)
			e.wantPicksOf(e.host(1), "2 2")
			e.wantPicksOf(e.host(2), "1")
			e.wantPicksOf(e.host(3), "1")
			e.wantFlows("web", 2, 3)
			e.web("2:0 1", keep)
			e.wantPicksOf(e.host(1), "1 1")
			e.web("2:0 1", keep, quiescedToo)
			e.wantPicksOf(e.host(1), "1")
		}},
		testCase{"unhealthy and removed ones do not", 0, func(e *env) {
			e.web("3 2 1", keep, quiescedToo)
			e.wantPicksOf(e.host(1), "3")
			e.wantPicksOf(e.host(2), "2")
			e.web("3! 1", keep, quiescedToo)
			e.wantPicksOf(e.host(1), "1 1")
			e.wantPicksOf(e.host(2), "1 1")
		}},
		testCase{"flows stay when their client gets another backend", 0, func(e *env) {
			e.web("2 1", keep)
			c := e.openAt(e.clientAt(e.host(1)), e.vip(1))
			e.web("2:0 1", keep)
			e.wantPicksOf(e.host(1), "1")
			c.stays()
			e.wantFlows("web", 2, 1)
			e.wantFlows("web", 1, 1)
		}},
	)
}

// affinityEditCases are about affinity that comes and goes.
func affinityEditCases() []testCase {
	return []testCase{
		{"affinity comes and goes without touching flows", 0, func(e *env) {
			e.web("2 1")
			a := e.openAt(e.clientAt(e.host(1)), e.vip(1))
			e.web("2 1", affinity(time.Hour))
			a.stays()
			b := e.openAt(e.clientAt(e.host(1)), e.vip(1))
			if b.server != 1 {
				e.Errorf("the first new flow went to %d, want 1: it is scheduled", b.server)
			}
			e.wantPicksOf(e.host(1), "1 1")
			e.web("2 1")
			e.wantPicksOf(e.host(1), "2 1 2")
			a.stays()
			b.stays()
		}},
		{"a client is kept through changes of frontends, scheduler and others' weights", 0, func(e *env) {
			e.web("3 2 1", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "3")
			for _, name := range []string{"wrr", "lc", "mh"} {
				svc := e.service("web", name, "4:9 3 2:5 1:0", 1, 2)
				affinity(time.Hour)(svc)
				e.apply(svc)
				e.wantPicksOf(e.host(1), "3")
				if got := e.pick(e.clientAt(e.host(1)), e.vip(2)); got != "3" {
					e.Errorf("through a new VIP it went to %s, want 3", got)
				}
			}
		}},
	}
}
