// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

func service(name string, port uint16, backends ...string) *lb.Service {
	s := &lb.Service{
		ID: lb.ServiceID{Name: name, Family: lb.IPv4}, Scheduler: "rr",
		Frontends: []lb.Frontend{{Addr: netip.AddrPortFrom(netip.MustParseAddr("198.18.255.10"), port), Protocol: lb.TCP}},
	}
	for _, b := range backends {
		s.Backends = append(s.Backends, lb.Backend{Addr: netip.MustParseAddrPort(b), Weight: 1})
	}
	return s
}

func snapshot(t *testing.T, services ...*lb.Service) *lb.Snapshot {
	t.Helper()
	s, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The hashes name services and backends in maps that outlive the process: a
// build that computes others would orphan every flow.
func TestHashesNeverChange(t *testing.T) {
	web := lb.ServiceID{Name: "web", Family: lb.IPv4}
	addr := netip.MustParseAddrPort("192.0.2.2:8080")
	got := []uint64{
		web.Hash(), lb.ServiceID{Name: "web", Family: lb.IPv6}.Hash(), lb.ServiceID{}.Hash(),
		lb.BackendID{Service: web, Addr: addr}.Hash(),
	}
	want := []uint64{411930935247742238, 15768566344386560666, 8917707823322109644, 5655189475264269354}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:192.0.2.2"), 8080)
	if lb.BackendHash(web.Hash(), addr) != lb.BackendHash(web.Hash(), mapped) {
		t.Error("an address and its mapped form differ")
	}
}

func TestSnapshotRefusesConflicts(t *testing.T) {
	a, b := service("a", 80), service("b", 80)
	var ce *lb.ConflictError
	if _, err := lb.NewSnapshot(a, b); !errors.As(err, &ce) || ce.First != a.ID || ce.Second != b.ID || ce.Frontend != a.Frontends[0] {
		t.Errorf("two services with one VIP: %v", err)
	}
	if _, err := lb.NewSnapshot(a, service("a", 81)); !errors.As(err, &ce) || ce.First != a.ID {
		t.Errorf("two services with one name: %v", err)
	}
}

func TestCompare(t *testing.T) {
	kept, gone, old := service("kept", 1), service("gone", 2), service("changed", 3)
	changed, added := service("changed", 3, "192.0.2.2:80"), service("added", 4)
	d := snapshot(t, kept, gone, old).Compare(snapshot(t, kept, changed, added))
	want := lb.Diff{Added: []*lb.Service{added}, Removed: []*lb.Service{gone}, Changed: []lb.Change{{Old: old, New: changed}}}
	opt := cmp.Comparer(func(a, b *lb.Service) bool { return a == b })
	if diff := cmp.Diff(want, d, opt); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var none *lb.Snapshot
	if d := none.Compare(none); !d.Empty() {
		t.Errorf("nothing against nothing: %+v", d)
	}
	if d := none.Compare(snapshot(t, kept)); len(d.Added) != 1 {
		t.Errorf("something against nothing: %+v", d)
	}
	if d := snapshot(t, kept).Compare(none); len(d.Removed) != 1 {
		t.Errorf("nothing against something: %+v", d)
	}
}

func TestSharingKeepsPointersOfWhatIsEqual(t *testing.T) {
	a, b := service("a", 1, "192.0.2.2:80"), service("b", 2)
	prev := snapshot(t, a, b)
	next := snapshot(t, service("a", 1, "192.0.2.2:80"), service("b", 2, "192.0.2.3:80")).Sharing(prev)
	if next.Service(a.ID) != a {
		t.Error("a is equal but another pointer")
	}
	if next.Service(b.ID) == b {
		t.Error("b changed but has its old pointer")
	}
	if d := prev.Compare(next); len(d.Changed) != 1 || len(d.Added)+len(d.Removed) != 0 {
		t.Errorf("difference %+v, want b alone", d)
	}
}

func TestEqual(t *testing.T) {
	a := service("a", 1, "192.0.2.2:80", "192.0.2.3:80")
	if b := service("a", 1, "192.0.2.3:80", "192.0.2.2:80"); a.Equal(b) {
		t.Error("the order of backends does not count")
	}
	extra := lb.Frontend{Addr: netip.MustParseAddrPort("198.18.255.11:1"), Protocol: lb.UDP}
	b, c := *a, *a
	b.Frontends = []lb.Frontend{a.Frontends[0], extra}
	c.Frontends = []lb.Frontend{extra, a.Frontends[0]}
	if !b.Equal(&c) || b.Equal(a) {
		t.Error("frontends are not compared as a set")
	}
	for name, change := range map[string]func(*lb.Service){
		"scheduler":  func(s *lb.Service) { s.Scheduler = "wrr" },
		"flags":      func(s *lb.Service) { s.SchedulerFlags = lb.SchedulerPort },
		"masquerade": func(s *lb.Service) { s.SetMasquerade(lb.MasqueradeAlways) },
		"policy":     func(s *lb.Service) { s.Frontends[0].Policy = lb.PolicyLocal },
		"ranges":     func(s *lb.Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} },
		"pools":      func(s *lb.Service) { s.Backends[0].Outside = lb.Local },
		"affinity":   func(s *lb.Service) { s.Affinity.Timeout = time.Minute },
		"one packet": func(s *lb.Service) { s.OnePacket = true },
		"sockets":    func(s *lb.Service) { s.HostSockets = true },
		"lost":       func(s *lb.Service) { s.Lost = lb.LostDrop },
		"reuse":      func(s *lb.Service) { s.Reuse = lb.ReuseNever },
		"threshold":  func(s *lb.Service) { s.Backends[0].Upper = 5 },
		"health":     func(s *lb.Service) { s.Backends[0].Unhealthy = true },
	} {
		other := *a
		other.Backends, other.Frontends = slices.Clone(a.Backends), slices.Clone(a.Frontends)
		if change(&other); a.Equal(&other) {
			t.Errorf("services that differ in %s are equal", name)
		}
	}
}

// An update is a snapshot beside the old one, which stays as it was.
func TestUpdate(t *testing.T) {
	a, b, c := service("a", 1), service("b", 2), service("c", 3)
	old, err := lb.NewSnapshot(a, b, c)
	if err != nil {
		t.Fatal(err)
	}
	moved := service("a", 2) // what b gives up
	next, err := old.Update([]*lb.Service{moved, service("d", 4)}, []lb.ServiceID{b.ID, {Name: "nobody"}})
	if err != nil {
		t.Fatal(err)
	}
	if next.Len() != 3 || next.Service(b.ID) != nil || next.Lookup(b.Frontends[0]) != moved || next.Lookup(a.Frontends[0]) != nil {
		t.Errorf("%d services, b %v, its VIP %v, a's former VIP %v", next.Len(), next.Service(b.ID), next.Lookup(b.Frontends[0]), next.Lookup(a.Frontends[0]))
	}
	if old.Len() != 3 || old.Service(a.ID) != a || old.Lookup(b.Frontends[0]) != b {
		t.Error("the update changed what it was made from")
	}
	d := old.Compare(next)
	if len(d.Added) != 1 || len(d.Removed) != 1 || len(d.Changed) != 1 || d.Changed[0].New != moved || d.Removed[0] != b {
		t.Errorf("difference %+v", d)
	}
	if _, err := next.Update([]*lb.Service{service("e", 3)}, nil); err == nil {
		t.Error("two services have one frontend")
	}
	if n := old.WithNode(lb.Node{PodDevices: []string{"cni0"}}); n.Len() != 3 || n.Node().PodDevices[0] != "cni0" || len(old.Node().PodDevices) != 0 {
		t.Error("the node is not kept beside the services")
	}
}

func TestPools(t *testing.T) {
	svc := service("a", 1, "192.0.2.2:80", "192.0.2.3:80", "192.0.2.4:80")
	if got := svc.Pool(lb.Local); &got[0] != &svc.Backends[0] || svc.UsesLocal() {
		t.Error("without pools there is one list, for all machines")
	}
	svc.Backends[0].Outside, svc.Backends[2].Outside = lb.Cluster, lb.Cluster|lb.Local
	if got := svc.Pool(lb.Cluster); len(got) != 1 || got[0].Addr != svc.Backends[1].Addr {
		t.Errorf("of all machines: %v", got)
	}
	if got := svc.Pool(lb.Local); len(got) != 2 || got[1].Addr != svc.Backends[1].Addr {
		t.Errorf("of this machine: %v", got)
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]lb.Protocol{"tcp": lb.TCP, "UDP": lb.UDP, "Sctp": lb.SCTP} {
		if got, err := lb.ParseProtocol(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	if _, err := lb.ParseProtocol("icmp"); err == nil {
		t.Error("icmp is taken")
	}
	if got := service("a", 80).Frontends[0].String(); got != "198.18.255.10:80/TCP" {
		t.Error(got)
	}
	if got := (lb.ServiceID{Name: "web", Family: lb.FamilyOf(netip.MustParseAddr("::1"))}).String(); got != "web/ipv6" {
		t.Error(got)
	}
	if lb.FamilyOf(netip.MustParseAddr("::ffff:192.0.2.1")) != lb.IPv4 {
		t.Error("a mapped address is not IPv4")
	}
}

func BenchmarkCompare10kServices(b *testing.B) {
	var services []*lb.Service
	for i := range 10_000 {
		services = append(services, service(fmt.Sprint("s", i), uint16(i+1)))
	}
	prev, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	services[500] = service("s500", 501, "192.0.2.2:80")
	next, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if d := prev.Compare(next); len(d.Changed) != 1 {
			b.Fatal("difference lost")
		}
	}
}

func BenchmarkUpdateOfOneAmong10kServices(b *testing.B) {
	var services []*lb.Service
	for i := range 10_000 {
		services = append(services, service(fmt.Sprint("s", i), uint16(i+1)))
	}
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		n := i % len(services)
		next, err := snap.Update([]*lb.Service{service(fmt.Sprint("s", n), uint16(n+1))}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if d := snap.Compare(next); len(d.Changed) != 1 {
			b.Fatalf("difference %+v", d)
		}
		snap = next
	}
}
