// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// web is service "web" at 203.0.113.1:80/TCP with backends like "3 2:0 1!": the
// last number of the address, the weight, and unhealthy.
func web(backends string, changes ...func(*lb.Service)) *lb.Service {
	return service("web", "203.0.113.1:80", backends, changes...)
}

func service(name, vip, backends string, changes ...func(*lb.Service)) *lb.Service {
	svc := &lb.Service{ID: lb.ServiceID{Name: name, Family: lb.IPv4}, Scheduler: "rr"}
	if vip != "" {
		svc.Frontends = []lb.Frontend{{Addr: netip.MustParseAddrPort(vip), Protocol: lb.TCP}}
	}
	for _, word := range strings.Fields(backends) {
		text, sick := strings.CutSuffix(word, "!")
		b := lb.Backend{Weight: 1, Unhealthy: sick}
		var n int
		if _, err := fmt.Sscanf(text, "%d:%d", &n, &b.Weight); err != nil {
			fmt.Sscanf(text, "%d", &n)
		}
		b.Addr = at(n)
		svc.Backends = append(svc.Backends, b)
	}
	for _, c := range changes {
		c(svc)
	}
	return svc
}

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 8080)
}

func udp(s *lb.Service) { s.Frontends[0].Protocol = lb.UDP }

func reset(s *lb.Service) { s.Lost = lb.LostReset }

func scheduled(name string) func(*lb.Service) { return func(s *lb.Service) { s.Scheduler = name } }

func outside(p lb.Pools, places ...int) func(*lb.Service) {
	return func(s *lb.Service) {
		for _, i := range places {
			s.Backends[i].Outside |= p
		}
	}
}

func policy(p lb.Policy) func(*lb.Service) {
	return func(s *lb.Service) { s.Frontends[0].Policy = p }
}

func atNode(port uint16) func(*lb.Service) {
	return func(s *lb.Service) {
		s.Frontends = append(s.Frontends, lb.Frontend{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Protocol: lb.TCP})
	}
}

// bench is a dataplane on a model of the kernel.
type bench struct {
	*testing.T
	m *kernelModel
	d *Dataplane
}

func newBench(t *testing.T) *bench {
	m := newModel(t)
	return &bench{t, m, newDataplane(slog.New(slog.DiscardHandler), m)}
}

func (b *bench) snapshot(services ...*lb.Service) *lb.Snapshot {
	b.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	return snap
}

func (b *bench) apply(services ...*lb.Service) dataplane.Report {
	b.Helper()
	return b.applySnapshot(b.snapshot(services...))
}

func (b *bench) applySnapshot(snap *lb.Snapshot) dataplane.Report {
	b.Helper()
	rep := b.d.Apply(snap)
	if rep.Err != nil || len(rep.Failed) > 0 {
		b.Fatalf("apply: %v, failed %v", rep.Err, rep.Failed)
	}
	return rep
}

// calls are what the kernel was called for by services, without the sets of the
// node, which the first Apply writes.
func (b *bench) wantCalls(want ...string) {
	b.Helper()
	var got []string
	for _, c := range b.m.took() {
		if !strings.HasPrefix(c, "pods") && !strings.HasPrefix(c, "ranges") {
			got = append(got, strings.ReplaceAll(c, "203.0.113.", "vip"))
		}
	}
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], "192.0.2.", "")
		got[i] = strings.ReplaceAll(got[i], ":8080", "")
	}
	if d := cmp.Diff(want, got); d != "" {
		b.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestAServiceIsAddedFromTheEndOfItsList(t *testing.T) {
	b := newBench(t)
	b.apply(web("3 2:5 1"))
	b.wantCalls(
		"elements -0 +5", // the frontend, the VIP, three servers
		"address vip1", "new vip1:80/TCP rr 0x0",
		"new vip1:80/TCP -> 1*1", "new vip1:80/TCP -> 2*5", "new vip1:80/TCP -> 3*1",
	)
	b.apply(web("3 2:5 1"))
	b.wantCalls()
}

func TestChangesAreDeletionsEditsAdditionsAtTheHead(t *testing.T) {
	b := newBench(t)
	b.apply(web("3 2 1", reset))
	b.m.took()
	b.apply(web("5 4 3 1:7", reset))
	b.wantCalls(
		"elements -0 +2",
		"delete vip1:80/TCP -> 2", "set vip1:80/TCP -> 1*7", "new vip1:80/TCP -> 4*1", "new vip1:80/TCP -> 5*1",
		"elements -1 +0", // the server 2
	)
}

func TestWhoReplacesAllComesBeforeTheyGo(t *testing.T) {
	b := newBench(t)
	b.apply(web("3:0 2 1", reset))
	b.m.took()
	b.apply(web("5 4 3:0", reset))
	b.wantCalls(
		"elements -0 +2",
		"new vip1:80/TCP -> 4*1", "new vip1:80/TCP -> 5*1", "delete vip1:80/TCP -> 2", "delete vip1:80/TCP -> 1",
		"elements -2 +0",
	)
}

func TestWhoLeavesGoesWithItsLastConnection(t *testing.T) {
	b := newBench(t)
	b.apply(web("2 1"))
	b.m.took()
	b.m.loads_[at(1)] = 1
	b.apply(web("2"))
	b.wantCalls("set vip1:80/TCP -> 1 leaving", "loads vip1:80/TCP")
	if err := b.d.drain(); err != nil {
		t.Fatal(err)
	}
	b.wantCalls("loads vip1:80/TCP")
	b.m.loads_[at(1)] = 0
	if err := b.d.drain(); err != nil {
		t.Fatal(err)
	}
	b.wantCalls("loads vip1:80/TCP", "delete vip1:80/TCP -> 1", "elements -1 +0")
	if err := b.d.drain(); err != nil {
		t.Fatal(err)
	}
	b.wantCalls()
}

func TestWhoIsBackBeforeItsLastConnectionStays(t *testing.T) {
	b := newBench(t)
	b.apply(web("2 1:3"))
	b.m.loads_[at(1)] = 1
	b.apply(web("2"))
	b.m.took()
	b.apply(web("2 1:3"))
	b.wantCalls("set vip1:80/TCP -> 1*3", "loads vip1:80/TCP")
}

func TestWhoKeepsItsConnections(t *testing.T) {
	tests := []struct {
		name          string
		before, after *lb.Service
		want          string
	}{
		{"TCP", web("2 1"), web("2"), "set vip1:80/TCP -> 1 leaving"},
		{"TCP that is reset", web("2 1", reset), web("2", reset), "delete vip1:80/TCP -> 1"},
		{"datagrams go elsewhere", web("2 1", udp), web("2", udp), "delete vip1:80/UDP -> 1"},
		{"datagrams of who serves elsewhere", web("2 1", udp), web("2 1", udp, outside(lb.Cluster, 1)), "set vip1:80/UDP -> 1 leaving"},
		{"not healthy", web("2 1:4"), web("2 1:4!"), "set vip1:80/TCP -> 1*4 unhealthy"},
		{"not healthy, and is reset", web("2 1", reset), web("2 1!", reset), "delete vip1:80/TCP -> 1"},
		{"dh has no way around", web("2 1", scheduled("dh")), web("2", scheduled("dh")), "delete vip1:80/TCP -> 1"},
		{"mh has one", web("2 1", scheduled("mh")), web("2", scheduled("mh")), "set vip1:80/TCP mh 0x8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.m.loads_[at(1)] = 1
			b.apply(tt.before)
			b.m.took()
			b.apply(tt.after)
			calls := b.m.took()
			b.m.calls = calls[:1]
			b.wantCalls(tt.want)
		})
	}
}

func TestHashesFallBackOnlyWhileSomebodyLeaves(t *testing.T) {
	b := newBench(t)
	b.apply(web("2 1", scheduled("sh")))
	b.m.loads_[at(1)] = 1
	b.apply(web("2", scheduled("sh")))
	b.m.took()
	b.m.loads_[at(1)] = 0
	if err := b.d.drain(); err != nil {
		t.Fatal(err)
	}
	b.wantCalls("loads vip1:80/TCP", "delete vip1:80/TCP -> 1", "set vip1:80/TCP sh 0x0", "elements -1 +0")
}

func TestAServiceThatIsGone(t *testing.T) {
	b := newBench(t)
	b.apply(web("2 1"), service("shop", "203.0.113.1:81", "2"))
	b.m.loads_[at(1)] = 1
	b.m.took()
	b.apply(service("shop", "203.0.113.1:81", "2"))
	b.wantCalls(
		"elements -1 +1", // new connections are refused
		"set vip1:80/TCP -> 2 leaving", "set vip1:80/TCP -> 1 leaving",
		"loads vip1:80/TCP", "delete vip1:80/TCP -> 2",
	)
	b.m.loads_[at(1)] = 0
	if err := b.d.drain(); err != nil {
		t.Fatal(err)
	}
	b.wantCalls("loads vip1:80/TCP", "delete vip1:80/TCP -> 1", "delete vip1:80/TCP", "elements -2 +0")
	b.apply()
	b.wantCalls(
		"elements -1 +1", "set vip1:81/TCP -> 2 leaving", "loads vip1:81/TCP", "delete vip1:81/TCP -> 2", "delete vip1:81/TCP",
		"no address vip1", "elements -3 +0",
	)
	if len(b.m.elements)+len(b.m.addresses)+len(b.m.virtuals) != 0 {
		t.Errorf("left: elements %v, addresses %v, virtual services %v", b.m.elements, b.m.addresses, b.m.virtuals)
	}
}

func TestAVIPThatChangesHandsKeepsItsVirtualService(t *testing.T) {
	b := newBench(t)
	b.m.loads_[at(1)] = 1
	b.apply(web("1"))
	b.m.took()
	b.apply(service("shop", "203.0.113.1:80", "2"))
	b.wantCalls("elements -1 +2", "new vip1:80/TCP -> 2*1", "set vip1:80/TCP -> 1 leaving", "loads vip1:80/TCP")
}

func TestPoliciesAndTheirVerdicts(t *testing.T) {
	tests := []struct {
		name  string
		svc   *lb.Service
		dests string
		terms terms
	}{
		{"the cluster's pool", web("2 1", outside(lb.Local, 0)), "2 1", 0},
		{"the local pool", web("2 1", outside(lb.Local, 0), policy(lb.PolicyLocal)), "1", policyLocal},
		{"nobody local", web("2 1", outside(lb.Local, 0, 1), policy(lb.PolicyLocal)), "", policyLocal | dropAll},
		{"nobody anywhere", web("", policy(lb.PolicyLocal)), "", policyLocal},
		{"local for outsiders", web("2 1", outside(lb.Local, 0), policy(lb.PolicyLocalExternal)), "1", policyLocalExternal},
		{"nobody local for outsiders", web("2 1", outside(lb.Local, 0, 1), policy(lb.PolicyLocalExternal)), "2 1", policyLocalExternal | dropOutsiders},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := render(tt.svc, nil)[0]
			var dests []string
			for _, d := range v.dests {
				dests = append(dests, fmt.Sprint(d.addr.Addr().As4()[3]))
			}
			if got := strings.Join(dests, " "); got != tt.dests || v.terms != tt.terms|served {
				t.Errorf("servers %q, terms %#x, want %q, %#x", got, v.terms, tt.dests, tt.terms|served)
			}
		})
	}
}

func TestNodePortsFollowTheMachinesAddresses(t *testing.T) {
	b := newBench(t)
	snap := b.snapshot(web("1", atNode(30080))).WithNode(lb.Node{NodePorts: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	set := func(addrs ...string) {
		t.Helper()
		m := make(map[netip.Addr]int)
		for _, a := range addrs {
			m[netip.MustParseAddr(a)]++
		}
		if err := b.d.setAddresses(m); err != nil {
			t.Fatal(err)
		}
	}
	set("198.51.100.1", "10.0.0.1", "127.0.0.1")
	b.applySnapshot(snap)
	b.wantCalls(
		"elements -0 +4", "new 198.51.100.1:30080/TCP rr 0x0", "new 198.51.100.1:30080/TCP -> 1*1",
		"address vip1", "new vip1:80/TCP rr 0x0", "new vip1:80/TCP -> 1*1",
	)
	set("198.51.100.2", "10.0.0.1", "127.0.0.1")
	b.wantCalls(
		"elements -1 +2", "set 198.51.100.1:30080/TCP -> 1 leaving",
		"new 198.51.100.2:30080/TCP rr 0x0", "new 198.51.100.2:30080/TCP -> 1*1",
		"loads 198.51.100.1:30080/TCP", "delete 198.51.100.1:30080/TCP -> 1", "delete 198.51.100.1:30080/TCP", "elements -1 +0",
	)
	set("198.51.100.2")
	b.wantCalls()
}

func TestUnknownPortsOfTheMachinesOwnAddressesAreItsOwn(t *testing.T) {
	b := newBench(t)
	vip := element{set: setVIPs, addr: netip.MustParseAddr("203.0.113.1")}
	b.apply(web("1"))
	for _, has := range []bool{true, false} {
		m := make(map[netip.Addr]int)
		if has {
			m[vip.addr] = 1
		}
		if err := b.d.setAddresses(m); err != nil {
			t.Fatal(err)
		}
		if b.m.elements[vip] == has {
			t.Errorf("another device has the VIP: %v; its unknown ports are refused: %v", has, has)
		}
	}
}

func TestAForeignVirtualServiceStays(t *testing.T) {
	b := newBench(t)
	k := key{netip.MustParseAddrPort("203.0.113.1:80"), lb.TCP}
	b.m.virtuals[k] = &virtual{key: k, settings: settings{scheduler: "wlc"}}
	snap := b.snapshot(web("1"), service("shop", "203.0.113.2:80", "2"))
	for range 2 {
		rep := b.d.Apply(snap)
		if err := rep.Failed[lb.ServiceID{Name: "web", Family: lb.IPv4}]; !errors.Is(err, errForeign) || len(rep.Failed) != 1 {
			t.Fatalf("failed: %v, want web, as %v", rep.Failed, errForeign)
		}
		if v := b.m.virtuals[k]; v == nil || v.scheduler != "wlc" || len(v.dests) != 0 {
			t.Errorf("the foreign virtual service is %+v", v)
		}
		for e := range b.m.elements {
			if e.key == k {
				t.Errorf("element %+v claims it", e)
			}
		}
	}
	delete(b.m.virtuals, k)
	b.applySnapshot(snap)
	if b.m.virtuals[k] == nil {
		t.Error("not served once it is free")
	}
}

func TestWhatFailedIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.apply(web("1"), service("shop", "203.0.113.2:80", "1"))
	boom := errors.New("boom")
	b.m.fail["new 203.0.113.1:80/TCP -> 192.0.2.2"] = boom
	snap := b.snapshot(web("3 2 1"), service("shop", "203.0.113.2:80", "2 1"))
	rep := b.d.Apply(snap)
	if err := rep.Failed[lb.ServiceID{Name: "web", Family: lb.IPv4}]; !errors.Is(err, boom) || len(rep.Failed) != 1 || rep.Changed != 1 {
		t.Fatalf("%+v, want web to fail", rep)
	}
	clear(b.m.fail)
	b.m.took()
	b.applySnapshot(snap)
	b.wantCalls("elements -0 +1", "new vip1:80/TCP -> 2*1", "new vip1:80/TCP -> 3*1")
	b.apply()
	if len(b.m.elements)+len(b.m.addresses)+len(b.m.virtuals) != 0 {
		t.Errorf("left: elements %v, addresses %v, virtual services %v", b.m.elements, b.m.addresses, b.m.virtuals)
	}
}

func TestAServiceThatFailedAndIsGoneIsRemoved(t *testing.T) {
	b := newBench(t)
	b.m.fail["new 203.0.113.1:80/TCP -> 192.0.2.2"] = errors.New("boom")
	b.d.Apply(b.snapshot(web("2 1")))
	clear(b.m.fail)
	b.apply()
	if len(b.m.elements)+len(b.m.addresses)+len(b.m.virtuals) != 0 {
		t.Errorf("left: elements %v, addresses %v, virtual services %v", b.m.elements, b.m.addresses, b.m.virtuals)
	}
}

func TestAnUnsupportedServiceKeepsWhatItHad(t *testing.T) {
	b := newBench(t)
	b.apply(web("1"))
	b.m.took()
	rep := b.d.Apply(b.snapshot(web("2", scheduled("best")), service("shop", "203.0.113.2:80", "1")))
	if len(rep.Failed) != 1 || rep.Added != 1 {
		t.Errorf("%+v", rep)
	}
	rep = b.d.Apply(b.snapshot(service("other", "203.0.113.1:80", "2"), web("2", scheduled("best"), func(s *lb.Service) {
		s.Frontends[0].Addr = netip.MustParseAddrPort("203.0.113.3:80")
	})))
	var conflict *lb.ConflictError
	if err := rep.Failed[lb.ServiceID{Name: "other", Family: lb.IPv4}]; !errors.As(err, &conflict) || len(rep.Failed) != 2 {
		t.Errorf("failed: %v, want a conflict too", rep.Failed)
	}
	if v := b.m.virtuals[key{netip.MustParseAddrPort("203.0.113.1:80"), lb.TCP}]; v == nil || v.dests[0].addr != at(1) {
		t.Errorf("kept %+v", v)
	}
}

// TestOneChangeCostsOneChange compares what the kernel is called for among ten
// thousand services with what it is among one.
func TestOneChangeCostsOneChange(t *testing.T) {
	b := newBench(t)
	var all []*lb.Service
	for i := range 10000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		all = append(all, service(fmt.Sprintf("other-%d", i), netip.AddrPortFrom(a, 80).String(), "1 2 3"))
	}
	snap := b.snapshot(append(all, web("2 1"))...)
	b.applySnapshot(snap)
	b.m.took()
	next, err := snap.Update([]*lb.Service{web("2 1:9")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.applySnapshot(next)
	b.wantCalls("set vip1:80/TCP -> 1*9")
	if next, err = next.Update(nil, []lb.ServiceID{{Name: "web", Family: lb.IPv4}}); err != nil {
		t.Fatal(err)
	}
	b.applySnapshot(next)
	b.wantCalls(
		"elements -1 +1", "set vip1:80/TCP -> 2 leaving", "set vip1:80/TCP -> 1 leaving",
		"loads vip1:80/TCP", "delete vip1:80/TCP -> 2", "delete vip1:80/TCP -> 1", "delete vip1:80/TCP", "no address vip1", "elements -2 +0",
	)
}
