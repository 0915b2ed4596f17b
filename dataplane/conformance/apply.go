// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/netip"

	"github.com/google/go-cmp/cmp"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// wantReport applies a snapshot and compares the numbers of services written.
func (e *env) wantReport(snap *lb.Snapshot, added, changed, removed int) {
	e.Helper()
	rep := e.applySnapshot(snap)
	want := dataplane.Report{Added: added, Changed: changed, Removed: removed}
	if got := (dataplane.Report{Added: rep.Added, Changed: rep.Changed, Removed: rep.Removed}); !cmp.Equal(want, got) {
		e.Errorf("report %+v, want %+v", got, want)
	}
}

// unsupported is a service that no dataplane has a scheduler for.
func (e *env) unsupported(name string, vip int) *lb.Service {
	return e.service(name, "no-such-scheduler", "1", vip)
}

// wantFailed applies a snapshot of which one service must fail.
func (e *env) wantFailed(snap *lb.Snapshot, name string) dataplane.Report {
	e.Helper()
	rep := e.rig.Dataplane().Apply(snap)
	if rep.Err != nil || len(rep.Failed) != 1 || rep.Failed[e.id(name)] == nil {
		e.Fatalf("apply: error %v, failed %v, want only %s to fail", rep.Err, rep.Failed, name)
	}
	return rep
}

// applyCases are about Apply, Read and Supports.
func applyCases() []testCase {
	return []testCase{
		{"what is applied is held", 0, func(e *env) {
			svc := e.service("web", "wrr", "3:2 1:0 2:65535", 2, 1)
			e.holds(e.apply(svc, e.service("empty", "rr", "", 3), e.service("shop", "rr", "2 1 9", 4)))
		}},
		{"backends are held in order, through changes", 0, func(e *env) {
			for _, list := range []string{"2 1", "3 2 1", "3 1", "2 3 1", "2 3:7 1", "", "1", "1 2 3", "3 1 2"} {
				e.holds(e.apply(e.service("web", "rr", list, 1)))
			}
		}},
		{"scheduler and frontends are held, through changes", 0, func(e *env) {
			e.holds(e.apply(e.service("web", "rr", "1", 1)))
			e.holds(e.apply(e.service("web", "wrr", "1", 1)))
			e.holds(e.apply(e.service("web", "wrr", "1", 1, 2)))
			e.holds(e.apply(e.service("web", "wrr", "1", 3)))
		}},
		{"services of one name and two families are two", 0, func(e *env) {
			a := e.service("web", "rr", "1", 1)
			own := e.family
			e.family = lb.IPv4 + lb.IPv6 - own
			b := e.service("web", "wrr", "3 2", 1)
			vip := e.vip(1)
			e.holds(e.apply(a, b))
			e.wantPicksAt(vip, "3 2")
			e.family = own
			e.wantPicks("1 1")
			e.wantFlows("web", 1, 2)
		}},
	}
}

// reportCases are about what Apply does and reports.
func reportCases() []testCase {
	return []testCase{
		{"a report says how many services were written", 0, func(e *env) {
			a, b, c := e.service("a", "rr", "1", 1), e.service("b", "rr", "2", 2), e.service("c", "rr", "3", 3)
			e.wantReport(e.snapshot(a, b), 2, 0, 0)
			e.wantReport(e.snapshot(a, e.service("b", "rr", "3 2", 2)), 0, 1, 0)
			e.wantReport(e.snapshot(a, c), 1, 0, 1)
			e.wantReport(nil, 0, 0, 2)
			e.holds(nil)
		}},
		{"the same snapshot again changes nothing", 0, func(e *env) {
			snap := e.apply(e.service("web", "wrr", "3:2 2:3 1:4", 1))
			e.wantPicks("3 2")
			c := e.open()
			e.wantReport(snap, 0, 0, 0)
			e.wantPicks("1 2")
			c.stays()
			e.holds(snap)
		}},
		{"the empty snapshot removes all", 0, func(e *env) {
			e.apply(e.service("web", "rr", "1", 1), e.service("shop", "rr", "2", 2))
			e.applySnapshot(nil)
			for n := 1; n <= 2; n++ {
				p := e.fromClient(e.client(), e.vip(n), SYN)
				e.wants(p, passed(p))
			}
			e.holds(nil)
		}},
	}
}

// failureCases are about services that cannot be applied.
func failureCases() []testCase {
	return []testCase{
		{"Supports says what can be applied", 0, func(e *env) {
			if err := e.rig.Dataplane().Supports(e.service("web", "wrr", "2:5 1:0", 1, 2)); err != nil {
				e.Errorf("Supports: %v", err)
			}
			if err := e.rig.Dataplane().Supports(e.unsupported("web", 1)); err == nil {
				e.Errorf("Supports accepts a scheduler that does not exist")
			}
		}},
		{"SCTP is supported where no port changes", 0, func(e *env) {
			sctp := e.service("web", "rr", "2 1")
			vip := netip.AddrPortFrom(e.vip(1).Addr(), e.server(1).Port())
			sctp.Frontends = []lb.Frontend{{Addr: vip, Protocol: lb.SCTP}, e.frontend(e.vip(1))}
			e.holds(e.apply(sctp))
			client, chunk := e.client(), []byte{11, 0, 0, 4} // COOKIE ACK
			// the reply finds the bit of the backend's protocol
			for range 2 {
				e.wants(Packet{From: Client, Src: client, Dst: vip, Protocol: lb.SCTP, Payload: chunk}, Outcome{Verdict: lb.Forward, Src: client, Dst: e.server(2)})
				e.wants(Packet{From: Backend, Src: e.server(2), Dst: client, Protocol: lb.SCTP, Payload: chunk}, Outcome{Verdict: lb.Forward, Src: vip, Dst: client})
			}
			other := *sctp
			other.Frontends = []lb.Frontend{{Addr: e.vip(1), Protocol: lb.SCTP}}
			if err := e.rig.Dataplane().Supports(&other); err == nil {
				e.Errorf("Supports accepts %v with the backends %v", other.Frontends, other.Backends)
			}
			e.wantFailed(e.snapshot(&other), "web")
			e.holds(e.snapshot(sctp))
		}},
		{"a service that fails fails alone", 0, func(e *env) {
			web := e.service("web", "rr", "2 1", 1)
			rep := e.wantFailed(e.snapshot(web, e.unsupported("bad", 2)), "bad")
			if rep.Added != 1 {
				e.Errorf("%d added, want 1", rep.Added)
			}
			e.wantPicks("2 1")
			e.holds(e.snapshot(web))
		}},
		{"a service that fails keeps what it had", 0, func(e *env) {
			before := e.apply(e.service("web", "rr", "2 1", 1))
			e.wantPicks("2")
			c := e.open()
			bad := e.snapshot(e.unsupported("web", 1))
			for range 2 {
				if rep := e.wantFailed(bad, "web"); rep.Changed != 0 {
					e.Errorf("%d changed, want 0", rep.Changed)
				}
				e.wantPicks("2 1")
				c.stays()
				e.holds(before)
			}
			e.holds(e.apply(e.service("web", "rr", "3 2 1", 1)))
			e.wantPicks("3 2 1")
		}},
		{"a retry writes only what had failed", 0, func(e *env) {
			bad := e.snapshot(e.service("web", "rr", "2 1", 1), e.unsupported("bad", 2))
			e.wantFailed(bad, "bad")
			e.wantPicks("2")
			if rep := e.wantFailed(bad, "bad"); rep.Added+rep.Changed+rep.Removed != 0 {
				e.Errorf("report %+v, want nothing written", rep)
			}
			e.wantPicks("1")
		}},
	}
}

// freshCases are about a machine on which nothing happened yet.
func freshCases() []testCase {
	return []testCase{
		{"nothing is ours before the first service", 0, func(e *env) {
			e.applySnapshot(nil)
			p := e.fromClient(e.client(), e.vip(1), SYN)
			e.wants(p, passed(p))
		}},
		{"a thousand services keep to themselves", 0, thousand},
	}
}

// thousand gives each of many services a VIP and a backend of its own, and
// takes half of them away.
func thousand(e *env) {
	const n = 1000
	var all, odd []*lb.Service
	for i := 1; i <= n; i++ {
		svc := e.service(fmt.Sprintf("service-%d", i), "rr", fmt.Sprint(i), i)
		all = append(all, svc)
		if i%2 == 1 {
			odd = append(odd, svc)
		}
	}
	e.wantReport(e.snapshot(all...), n, 0, 0)
	e.holds(e.snapshot(all...))
	var conns []*conn
	for i := 1; i <= n; i++ {
		c := e.beginAt(e.client(), e.vip(i))
		if c.server != i {
			e.Fatalf("VIP %d went to server %d", i, c.server)
		}
		conns = append(conns, c)
	}
	half := e.snapshot(odd...)
	e.wantReport(half, 0, 0, n/2)
	e.holds(half)
	for i, c := range conns {
		c.replies(SYN | ACK)
		c.sends(ACK)
		p := e.fromClient(e.client(), c.vip, SYN)
		want := passed(p)
		if i%2 == 0 {
			want = Outcome{Verdict: lb.Forward, Src: p.Src, Dst: e.server(c.server)}
		}
		e.wants(p, want)
		if e.Failed() {
			e.Fatalf("at VIP %d", i+1)
		}
	}
}
