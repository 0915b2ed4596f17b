// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// liveCases are about what a service says, and that it changes under traffic.
func liveCases() []testCase {
	return slices.Concat(heldCases(), untouchedCases(), scheduleChangeCases())
}

// full is a service that says everything there is to say, one thing after the
// other.
func full(e *env) []change {
	bits := uint8(e.family.Bits())
	return []change{
		scheduler("mh", 0),
		scheduler("mh", lb.SchedulerFallback|lb.SchedulerPort),
		scheduler("sh", lb.SchedulerPort),
		scheduler("sh", 0),
		scheduler("sh", lb.SchedulerFallback),
		scheduler("wlc", 0),
		affinity(300 * time.Second),
		func(s *lb.Service) { s.Affinity = lb.Affinity{Timeout: 744 * time.Hour, Prefix: bits - 8} },
		func(s *lb.Service) { s.Affinity.Quiesced = true },
		func(s *lb.Service) { s.Affinity = lb.Affinity{Timeout: time.Second, Quiesced: true} },
		func(s *lb.Service) { s.Affinity.Lapses = true },
		onePacket,
		lost(lb.LostReset), reuse(lb.ReuseFinished), lost(lb.LostDrop), reuse(lb.ReuseNever),
		func(s *lb.Service) { s.Backends[0].Upper = 1<<32 - 1 },
		func(s *lb.Service) { s.Backends[0].Lower = 1<<32 - 1 },
		func(s *lb.Service) { s.Backends[1].Upper, s.Backends[1].Lower = 7, 3 },
		func(s *lb.Service) { s.Backends[1].Unhealthy = true },
		func(s *lb.Service) { s.Backends[1].Weight = 0 },
		func(s *lb.Service) { s.Backends[1].Unhealthy = false },
		func(s *lb.Service) { s.Frontends = append(s.Frontends, e.frontend(e.port(1, 0))) },
		func(s *lb.Service) {
			s.Frontends = s.Frontends[1:]
			s.Backends[2].Addr = netip.AddrPortFrom(s.Backends[2].Addr.Addr(), 0)
		},
		lost(lb.LostKeep), reuse(lb.ReuseAny),
		hostSockets,
		func(s *lb.Service) { s.HostSockets = false },
		func(s *lb.Service) { s.OnePacket = false },
	}
}

// heldCases are about Read.
func heldCases() []testCase {
	return []testCase{
		{"all that a service says is held, and each change is one", 0, func(e *env) {
			e.web("3:2 2:5 1")
			var changes []change
			for i, c := range full(e) {
				changes = append(changes, c)
				snap := e.snapshot(e.changed("3:2 2:5 1", changes...))
				e.wantReport(snap, 0, 1, 0)
				e.holds(snap)
				e.wantReport(e.snapshot(e.changed("3:2 2:5 1", changes...)), 0, 0, 0)
				if e.Failed() {
					e.Fatalf("after change %d", i+1)
				}
			}
			e.holds(e.web("3:2 2:5 1"))
		}},
		{"all that a service says is read back after a restart", 0, func(e *env) {
			changes := full(e)
			for _, n := range []int{2, 4, 8, 12, 15, 18, len(changes)} {
				snap := e.web("3:2 2:5 1", changes[:n]...)
				e.restart()
				e.holds(snap)
				e.wantReport(e.snapshot(e.changed("3:2 2:5 1", changes[:n]...)), 0, 0, 0)
				e.holds(snap)
				if e.Failed() {
					e.Fatalf("after %d changes", n)
				}
			}
		}},
		{"what cannot be is refused, and what was stays", 0, func(e *env) {
			snap := e.web("2 1", affinity(time.Hour))
			e.wantPicksOf(e.host(1), "2")
			for name, spoil := range map[string]change{
				"any port without affinity":   func(s *lb.Service) { s.Affinity, s.Frontends = lb.Affinity{}, []lb.Frontend{e.frontend(e.port(1, 0))} },
				"the port that was asked for": func(s *lb.Service) { s.Backends[0].Addr = e.serverAt(2, 0) },
				"lower threshold above upper": func(s *lb.Service) { s.Backends[0].Upper, s.Backends[0].Lower = 3, 4 },
				"lower threshold without any": func(s *lb.Service) { s.Backends[0].Lower = 1 },
				"part of a second":            func(s *lb.Service) { s.Affinity.Timeout = 1500 * time.Millisecond },
				"more than 31 days":           func(s *lb.Service) { s.Affinity.Timeout = 744*time.Hour + time.Second },
				"more bits than there are":    func(s *lb.Service) { s.Affinity.Prefix = uint8(e.family.Bits()) + 1 },
				"a flag of other schedulers":  scheduler("rr", lb.SchedulerPort),
				"a flag of none":              scheduler("sh", 1<<2),
				"one packet, and masqueraded": func(s *lb.Service) { s.OnePacket = true; s.SetMasquerade(lb.MasqueradeAlways) },
				"an address with a zone":      func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("[fe80::1%eth0]:80") },
			} {
				svc := e.changed("2 1", affinity(time.Hour), spoil)
				if err := e.rig.Dataplane().Supports(svc); err == nil {
					e.Errorf("%s: Supports accepts it", name)
				}
				e.wantFailed(e.snapshot(svc), "web")
			}
			e.holds(snap)
			e.wantPicksOf(e.host(1), "2")
			e.wantPicksOf(e.host(2), "1")
		}},
	}
}

// untouchedCases are about established flows.
func untouchedCases() []testCase {
	// unlike those of full, these leave server 2's flows alone
	edits := func(e *env) []change {
		return []change{
			affinity(time.Hour),
			func(s *lb.Service) { s.Affinity = lb.Affinity{Timeout: time.Minute, Prefix: 8, Quiesced: true} },
			onePacket, hostSockets, lost(lb.LostReset), lost(lb.LostDrop), reuse(lb.ReuseFinished), reuse(lb.ReuseNever),
			func(s *lb.Service) { s.Backends[0].Unhealthy = true },
			func(s *lb.Service) { s.Backends[1].Upper, s.Backends[1].Lower = 1, 1 },
			func(s *lb.Service) { s.Backends[1].Weight = 0 },
			func(s *lb.Service) { s.Backends = s.Backends[1:] },
			func(s *lb.Service) { s.Frontends = append(s.Frontends, e.frontend(e.vip(2))) },
			func(s *lb.Service) { s.Frontends = s.Frontends[1:] },
			func(s *lb.Service) { s.OnePacket = false; s.SetMasquerade(lb.MasqueradeAlways) },
		}
	}
	return []testCase{
		{"established flows stay through every scheduler and all flags", 0, func(e *env) {
			e.web("3 2 1")
			conns := e.opens(3)
			for _, name := range sched.Names() {
				s, err := sched.Find(name)
				if err != nil {
					e.Fatal(err)
				}
				for _, flags := range []lb.SchedulerFlags{0, s.Flags} {
					e.web("3:2 2:5 1", scheduler(name, flags))
					e.picksAt(e.vip(1), 1)
					for _, c := range conns {
						c.stays()
					}
				}
			}
			n := uint64(0)
			for server := 1; server <= 3; server++ {
				b := e.backend("web", server)
				n += b.Active + b.Inactive
			}
			if want := uint64(3 + 2*len(sched.Names())); n != want {
				e.Errorf("%d flows are counted, want %d", n, want)
			}
		}},
		{"established flows stay whatever else is said", 0, func(e *env) {
			e.web("3 2 1")
			c := e.opens(2)[1]
			var changes []change
			for i, edit := range edits(e) {
				changes = append(changes, edit)
				e.web("3 2 1", changes...)
				c.stays()
				e.rig.Advance(slack)
				c.stays()
				e.wantFlows("web", 2, 1)
				if e.Failed() {
					e.Fatalf("after change %d", i+1)
				}
			}
			e.web("3 2 1")
			c.stays()
			e.wantFlows("web", 2, 1)
		}},
	}
}

// scheduleChangeCases are about new flows after a change.
func scheduleChangeCases() []testCase {
	return []testCase{
		{"a scheduler that counts finds the flows of the one before", 0, func(e *env) {
			e.web("3 2 1")
			e.wantPicks("3 2 1 3 2")
			e.web("3 2 1", scheduler("lc", 0))
			e.wantPicks("1 3 2 1 3")
			e.web("3 2 1", scheduler("mh", 0))
			e.web("3 2 1", scheduler("rr", 0))
			e.wantPicks("3 2 1")
		}},
		{"flags of a scheduler change at once", 0, func(e *env) {
			e.web("2:0 1", scheduler("sh", 0))
			all := owners("- 1")
			client := netip.Addr{}
			for _, addr := range e.many() {
				if all[bucket(addr, 0)] == "-" {
					client = addr
				}
			}
			e.wantPicksOf(client, "- -")
			e.web("2:0 1", scheduler("sh", lb.SchedulerFallback))
			e.wantPicksOf(client, "1 1")
			e.web("2:0 1", scheduler("sh", 0))
			e.wantPicksOf(client, "-")
			e.web("2:0 1", scheduler("sh", lb.SchedulerPort))
			for range 10 {
				c := e.clientAt(client)
				if got, want := e.pick(c, e.vip(1)), all[bucket(c.Addr(), c.Port())]; got != want {
					e.Errorf("%s went to %s, want %s", c, got, want)
				}
			}
		}},
		{"wrr remembers who could not be picked, through other changes", 0, func(e *env) {
			wrr := scheduler("wrr", 0)
			e.web("2:1^1 1:4^3", wrr)
			e.wantPicks("2 1 1 1 -") // the last one walks to the top
			e.web("2:1^1 1:4^3", wrr, reuse(lb.ReuseNever))
			e.web("2:1 1:4^9", wrr)
			e.wantPicks("1 1 1 2 1")
		}},
		{"what a service says beside its schedule takes no turn", 0, func(e *env) {
			e.web("3:2 2:3 1:4", scheduler("wrr", 0))
			e.wantPicks("3 2 1 1")
			for _, c := range []change{affinity(time.Second), onePacket, hostSockets, lost(lb.LostDrop), reuse(lb.ReuseNever)} {
				e.web("3:2 2:3 1:4", scheduler("wrr", 0), c)
			}
			e.web("3:2 2:3 1:4", scheduler("wrr", 0))
			e.wantPicks("2 1 3 2 1 3 2 1 1")
		}},
	}
}
