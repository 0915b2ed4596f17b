// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
)

func addr(net byte, n int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, net, 0, byte(n)}), port)
}

func vip(n int) netip.AddrPort    { return addr(1, n, 80) }
func server(n int) netip.AddrPort { return addr(2, n, 8080) }
func id(name string) lb.ServiceID { return lb.ServiceID{Name: name, Family: lb.IPv4} }

// service describes one at a VIP, with these servers.
func service(name string, vipNumber int, servers ...int) *lb.Service {
	svc := &lb.Service{ID: id(name), Scheduler: "rr", Frontends: []lb.Frontend{{Addr: vip(vipNumber), Protocol: lb.TCP}}}
	for _, n := range servers {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: server(n), Weight: 1})
	}
	return svc
}

func snapshot(t interface {
	Helper()
	Fatalf(string, ...any)
}, services ...*lb.Service,
) *lb.Snapshot {
	t.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return snap
}

// describe lists a snapshot's services, one a line.
func describe(snap *lb.Snapshot) []string {
	var out []string
	for svc := range snap.All() {
		fs := slices.SortedFunc(slices.Values(svc.Frontends), lb.Frontend.Compare)
		all := *svc
		all.Frontends = fs
		out = append(out, fmt.Sprintf("%+v", all))
	}
	return out
}

func holds(t *testing.T, d *fake.Dataplane, want *lb.Snapshot) {
	t.Helper()
	got, err := d.Read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if diff := cmp.Diff(describe(want), describe(got)); diff != "" {
		t.Errorf("held services (-want +got):\n%s", diff)
	}
}

// faults fails what it holds.
type faults map[string]bool

var errFault = errors.New("disk on fire")

func (f faults) fail(op fake.Op, svc lb.ServiceID) error {
	if f[string(op)+" "+svc.Name] {
		return errFault
	}
	return nil
}

func TestAFailingServiceKeepsWhatItHadAndARetryHeals(t *testing.T) {
	f := faults{}
	d := fake.New(fake.Options{Fail: f.fail})
	one := service("one", 1, 1)
	before := snapshot(t, one, service("two", 2, 2), service("three", 3, 3))
	d.Apply(before)
	after := snapshot(t, one, service("two", 2, 2, 22), service("four", 4, 4), service("five", 5, 5))
	for _, fault := range []string{"change two", "add four", "remove three"} {
		f[fault] = true
	}
	rep := d.Apply(after)
	for _, name := range []string{"two", "three", "four"} {
		if !errors.Is(rep.Failed[id(name)], errFault) {
			t.Errorf("%s: error %v, want the fault", name, rep.Failed[id(name)])
		}
	}
	if len(rep.Failed) != 3 || rep.Err != nil || rep.Added != 1 || rep.Changed != 0 || rep.Removed != 0 {
		t.Errorf("report %+v, want three failures and one added", rep)
	}
	holds(t, d, snapshot(t, one, service("two", 2, 2), service("three", 3, 3), service("five", 5, 5)))

	clear(f)
	rep = d.Apply(after)
	if len(rep.Failed) != 0 || rep.Err != nil || rep.Added != 1 || rep.Changed != 1 || rep.Removed != 1 {
		t.Errorf("report of the retry %+v, want what had failed", rep)
	}
	holds(t, d, after)
}

func TestAServiceWaitsForAFrontendThatAFailedOneHolds(t *testing.T) {
	f := faults{"change a": true}
	d := fake.New(fake.Options{Fail: f.fail})
	before := snapshot(t, service("a", 1, 1), service("b", 2, 2), service("c", 3, 3), service("d", 9, 9))
	d.Apply(before)
	// b wants what a holds, c what b holds, so both wait; d does not
	after := snapshot(t, service("a", 8, 1), service("b", 1, 2), service("c", 2, 3), service("d", 7, 9))
	rep := d.Apply(after)
	if len(rep.Failed) != 3 || rep.Failed[id("d")] != nil || rep.Changed != 1 {
		t.Errorf("report %+v, want a, b and c to fail", rep)
	}
	holds(t, d, snapshot(t, service("a", 1, 1), service("b", 2, 2), service("c", 3, 3), service("d", 7, 9)))
	clear(f)
	if rep := d.Apply(after); len(rep.Failed) != 0 || rep.Changed != 3 {
		t.Errorf("report of the retry %+v, want three changed", rep)
	}
	holds(t, d, after)
}

func TestFaultsOfTheWholeChangeNothing(t *testing.T) {
	f := faults{}
	d := fake.New(fake.Options{Fail: f.fail})
	before := snapshot(t, service("one", 1, 1))
	d.Apply(before)
	f["apply "] = true
	if rep := d.Apply(nil); !errors.Is(rep.Err, errFault) || rep.Removed != 0 {
		t.Errorf("report %+v, want the fault and nothing removed", rep)
	}
	holds(t, d, before)
	f["read "], f["counters "] = true, true
	if _, err := d.Read(); !errors.Is(err, errFault) {
		t.Errorf("read: %v, want the fault", err)
	}
	if _, err := d.Counters(); !errors.Is(err, errFault) {
		t.Errorf("counters: %v, want the fault", err)
	}
}

func TestFailEveryFailsEachNthWrite(t *testing.T) {
	d := fake.New(fake.Options{FailEvery: 3})
	snap := snapshot(t, service("a", 1, 1), service("b", 2, 2), service("c", 3, 3), service("d", 4, 4))
	rep := d.Apply(snap)
	if rep.Added != 3 || len(rep.Failed) != 1 || !errors.Is(rep.Failed[id("c")], fake.ErrInjected) {
		t.Errorf("report %+v, want c, the third, to fail", rep)
	}
	if rep := d.Apply(snap); rep.Added != 1 || len(rep.Failed) != 0 {
		t.Errorf("report of the retry %+v, want one added", rep)
	}
}

func TestUnsupportedServicesAreNamed(t *testing.T) {
	d := fake.New(fake.Options{})
	v6 := netip.MustParseAddrPort("[2001:db8::1]:80")
	tests := map[string]func(*lb.Service){
		"family of no address":          func(s *lb.Service) { s.ID.Family = 5 },
		"name with NUL":                 func(s *lb.Service) { s.ID.Name = "a\x00b" },
		"name too long":                 func(s *lb.Service) { s.ID.Name = strings.Repeat("n", 200) },
		"unknown scheduler":             func(s *lb.Service) { s.Scheduler = "dice" },
		"flag of another scheduler":     func(s *lb.Service) { s.SchedulerFlags = lb.SchedulerPort },
		"protocol without ports":        func(s *lb.Service) { s.Frontends[0].Protocol = 1 },
		"SCTP to another port":          func(s *lb.Service) { s.Frontends[0].Protocol = lb.SCTP },
		"frontend of another family":    func(s *lb.Service) { s.Frontends[0].Addr = v6 },
		"frontend without an address":   func(s *lb.Service) { s.Frontends[0].Addr = netip.AddrPort{} },
		"any port without affinity":     func(s *lb.Service) { s.Frontends[0].Addr = addr(1, 1, 0) },
		"backend of another family":     func(s *lb.Service) { s.Backends[0].Addr = v6 },
		"backend in IPv6 form":          func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("[::ffff:10.2.0.1]:80") },
		"backend with a zone":           func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("[fe80::1%eth0]:80") },
		"backend of any port":           func(s *lb.Service) { s.Affinity.Timeout, s.Backends[0].Addr = time.Minute, addr(2, 1, 0) },
		"backend twice":                 func(s *lb.Service) { s.Backends = append(s.Backends, s.Backends[0]) },
		"lower threshold above upper":   func(s *lb.Service) { s.Backends[0].Upper, s.Backends[0].Lower = 3, 4 },
		"affinity of half a second":     func(s *lb.Service) { s.Affinity.Timeout = time.Second / 2 },
		"affinity of less than nothing": func(s *lb.Service) { s.Affinity.Timeout = -time.Second },
		"affinity of more than 31 days": func(s *lb.Service) { s.Affinity.Timeout = 745 * time.Hour },
		"affinity by 33 bits":           func(s *lb.Service) { s.Affinity.Prefix = 33 },
		"one-packet and masqueraded":    func(s *lb.Service) { s.OnePacket = true; s.SetMasquerade(lb.MasqueradeAlways) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			svc := service("web", 1, 1)
			if err := d.Supports(svc); err != nil {
				t.Fatalf("Supports: %v", err)
			}
			spoil(svc)
			if err := d.Supports(svc); err == nil {
				t.Errorf("Supports accepts it")
			}
			if rep := d.Apply(snapshot(t, svc)); rep.Failed[svc.ID] == nil {
				t.Errorf("Apply accepts it: %+v", rep)
			}
		})
	}
}

func TestWhatTheKernelCannotCompareIsRefused(t *testing.T) {
	svc := service("web", 1)
	for n := range 1<<14 + 1 {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: addr(byte(2+n>>8), n, 8080), Weight: 1})
	}
	d := fake.New(fake.Options{})
	if rep := d.Apply(snapshot(t, svc)); len(rep.Failed) != 0 {
		t.Errorf("rr with %d backends: %v", len(svc.Backends), rep.Failed)
	}
	most := *svc
	most.Scheduler = "lc"
	if rep := d.Apply(snapshot(t, &most)); rep.Failed[svc.ID] == nil {
		t.Errorf("lc with %d backends is taken", len(svc.Backends))
	}
	fewer := most
	fewer.Backends = slices.Clone(most.Backends)
	fewer.Backends[7].Weight = 0
	if rep := d.Apply(snapshot(t, &fewer)); len(rep.Failed) != 0 {
		t.Errorf("lc with %d backends, one of weight 0: %v", len(svc.Backends), rep.Failed)
	}
}

func TestTheKernelOutlivesTheProcess(t *testing.T) {
	d := fake.New(fake.Options{})
	snap := snapshot(t, service("web", 1, 1))
	d.Apply(snap)
	if err := d.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if rep := d.Apply(nil); !errors.Is(rep.Err, fake.ErrClosed) {
		t.Errorf("apply: %v, want ErrClosed", rep.Err)
	}
	if _, err := d.Read(); !errors.Is(err, fake.ErrClosed) {
		t.Errorf("read: %v, want ErrClosed", err)
	}
	if _, err := d.Counters(); !errors.Is(err, fake.ErrClosed) {
		t.Errorf("counters: %v, want ErrClosed", err)
	}
	out := d.Kernel().Ingress(fake.Packet{Src: addr(3, 1, 1000), Dst: vip(1), Protocol: lb.TCP, Flags: fake.SYN})
	if out.Verdict != lb.Forward || out.Dst != server(1) {
		t.Errorf("a packet after Close: %+v, want it at the server", out)
	}
	next := fake.New(fake.Options{Kernel: d.Kernel()})
	holds(t, next, snap)
	if rep := next.Apply(snapshot(t, service("web", 1, 1))); rep.Added+rep.Changed+rep.Removed+len(rep.Failed) != 0 {
		t.Errorf("an equal service after a restart: %+v, want nothing written", rep)
	}
}

// TestReadersAndPacketsDuringApply is for the race detector, and wants no
// packet refused: the pool is never empty.
func TestReadersAndPacketsDuringApply(t *testing.T) {
	d := fake.New(fake.Options{})
	d.Apply(snapshot(t, service("web", 1, 1)))
	done := make(chan struct{})
	var wg sync.WaitGroup
	during := func(f func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					f(i)
				}
			}
		})
	}
	during(func(int) {
		if _, err := d.Counters(); err != nil {
			t.Errorf("counters: %v", err)
		}
	})
	during(func(int) {
		if snap, err := d.Read(); err != nil || snap.Len() != 1 {
			t.Errorf("read: %d services, error %v", snap.Len(), err)
		}
	})
	during(func(i int) {
		out := d.Kernel().Ingress(fake.Packet{Src: addr(3, i>>14, uint16(i)|1<<14), Dst: vip(1), Protocol: lb.TCP, Flags: fake.SYN})
		if out.Verdict != lb.Forward {
			t.Errorf("packet %d: %+v", i, out)
		}
	})
	during(func(int) { d.Kernel().Advance(time.Second) })
	for i := range 500 {
		d.Apply(snapshot(t, service("web", 1, 1+i%7, 10+i%3)))
	}
	close(done)
	wg.Wait()
}
