// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/file"
)

func save(t rapid.TB, sorted bool, services ...*lb.Service) (text string, notes []string) {
	t.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if notes, err = ipvsadm.Save(&out, snap, sorted); err != nil {
		t.Fatal(err)
	}
	return out.String(), notes
}

// parse reads text as waggle reads it.
func parse(t rapid.TB, text string) []*lb.Service {
	t.Helper()
	cfg, err := file.Parse("rules", []byte(text), file.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return cfg.Services
}

// TestSortedIsWhatTheToolPrints: of services that waggle read from its text.
func TestSortedIsWhatTheToolPrints(t *testing.T) {
	for _, name := range []string{"Sn.txt", "Sn-order.txt"} {
		want := sample(t, name)
		text, notes := save(t, true, parse(t, want)...)
		if diff := cmp.Diff(want, text); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if len(notes) > 0 {
			t.Errorf("%s: notes %q", name, notes)
		}
	}
}

func TestSaveKeepsTheOrderOfTheList(t *testing.T) {
	got, notes := save(t, false, &lb.Service{
		ID:        lb.ServiceID{Name: "203.0.113.10:0/SCTP", Family: lb.IPv4},
		Scheduler: "mh", SchedulerFlags: lb.SchedulerPort | lb.SchedulerFallback,
		Affinity: lb.Affinity{Timeout: time.Hour, Prefix: 9}, Frontends: at("203.0.113.10:0", lb.SCTP),
		Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("192.0.2.2:0"), Weight: 7, Upper: 10, Lower: 5},
			{Addr: netip.MustParseAddrPort("192.0.2.1:0"), Upper: 10},
			{Addr: netip.MustParseAddrPort("192.0.2.3:0"), Weight: 65535},
		},
	})
	want := `-A --sctp-service 203.0.113.10:0 -s mh -p 3600 -M 255.128.0.0 -b mh-fallback,mh-port
-a --sctp-service 203.0.113.10:0 -r 192.0.2.3:0 -m -w 65535
-a --sctp-service 203.0.113.10:0 -r 192.0.2.1:0 -m -w 0 -x 10
-a --sctp-service 203.0.113.10:0 -r 192.0.2.2:0 -m -w 7 -x 10 -y 5
`
	if diff := cmp.Diff(want, got); diff != "" || len(notes) > 0 {
		t.Errorf("notes %q (-want +got):\n%s", notes, diff)
	}
}

func TestWhatIsLeftOutIsNoted(t *testing.T) {
	web := &lb.Service{
		ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "rr",
		Affinity: lb.Affinity{Timeout: time.Minute, Prefix: 32, Quiesced: true, Lapses: true}, Lost: lb.LostReset, Reuse: lb.ReuseNever, HostSockets: true,
		Frontends: slices.Concat(at("203.0.113.11:80", lb.UDP), at("203.0.113.10:80", lb.TCP)),
		Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 5, Unhealthy: true},
			{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 1, Upper: math.MaxUint32},
		},
	}
	web.SetMasquerade(lb.MasqueradeAlways)
	empty := &lb.Service{ID: lb.ServiceID{Name: "empty", Family: lb.IPv6}, Scheduler: "rr", Lost: lb.LostDrop, Reuse: lb.ReuseFinished}
	dns := &lb.Service{ID: lb.ServiceID{Name: "dns", Family: lb.IPv4}, Scheduler: "rr", Frontends: at("203.0.113.53:53", lb.UDP)}
	text, notes := save(t, false, web, empty, dns)
	want := `-A -t 203.0.113.10:80 -s rr -p 60
-a -t 203.0.113.10:80 -r 192.0.2.1:80 -m -w 1 -x 4294967295
-a -t 203.0.113.10:80 -r 192.0.2.2:80 -m -w 0
-A -u 203.0.113.11:80 -s rr -p 60
-a -u 203.0.113.11:80 -r 192.0.2.1:80 -m -w 1 -x 4294967295
-a -u 203.0.113.11:80 -r 192.0.2.2:80 -m -w 0
-A -u 203.0.113.53:53 -s rr
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantNotes := []string{
		"service empty/ipv6: it has no frontend, and so is not in the text",
		"service empty/ipv6: lostBackend: drop has no form in ipvsadm: in IPVS it is net.ipv4.vs.expire_nodest_conn=0, for all services",
		"service empty/ipv6: portReuse: finished has no form in ipvsadm: in IPVS it is net.ipv4.vs.conn_reuse_mode=1, for all services",
		"service web/ipv4: its 2 frontends become services of their own, with turns and counts of their own",
		"service web/ipv4: masquerade: always has no form in ipvsadm",
		"service web/ipv4: quiesced: keep has no form in ipvsadm: in IPVS it is net.ipv4.vs.expire_quiescent_template=0, for all services",
		"service web/ipv4: in IPVS its affinity does not end before the connections do, and here it does",
		"service web/ipv4: lostBackend: reset has no form in ipvsadm: in IPVS it is net.ipv4.vs.expire_nodest_conn=1, for all services",
		"service web/ipv4: portReuse: never has no form in ipvsadm: in IPVS it is net.ipv4.vs.conn_reuse_mode=0, for all services",
		"service web/ipv4: sockets: host has no form in ipvsadm: IPVS leads no sockets",
		"service web/ipv4: unhealthy has no form in ipvsadm, weight 0 stands for it: 192.0.2.2:80",
		"service web/ipv4: ipvsadm takes thresholds up to 2147483647, these have more: 192.0.2.1:80",
		"names of services are not in the text: read again, each has that of its frontend, such as 203.0.113.10:80/TCP",
	}
	if diff := cmp.Diff(wantNotes, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}

	_, notes = save(t, true, web, empty, dns)
	wantNotes[11] = "service web/ipv4: thresholds are not in the text, as ipvsadm -S does not print them: 192.0.2.1:80"
	if diff := cmp.Diff(wantNotes, notes); diff != "" {
		t.Errorf("notes, sorted (-want +got):\n%s", diff)
	}
}

var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestErrorsOfTheWriterAreReturned(t *testing.T) {
	services := state(t)
	snap, err := lb.NewSnapshot(parse(t, sample(t, "Sn.txt"))...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ipvsadm.Save(full{}, snap, false)
	for what, err := range map[string]error{
		"Save":            err,
		"List":            ipvsadm.List(full{}, services, ipvsadm.ListOptions{}),
		"ListConnections": ipvsadm.ListConnections(full{}, slices.Values([]ipvsadm.Connection{{}}), false),
	} {
		if !errors.Is(err, errFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := ipvsadm.List(full{}, services, ipvsadm.ListOptions{View: 99}); err == nil || errors.Is(err, errFull) {
		t.Errorf("unknown view: %v", err)
	}
}

// drawAddr is of a few networks, near to and far from each other.
func drawAddr(t *rapid.T, family lb.Family, label string) netip.Addr {
	first := []string{"10.0.0.0", "172.16.0.0", "192.168.0.0", "198.51.100.0", "9.255.255.0"}
	if family == lb.IPv6 {
		first = []string{"2001:db8::", "fd00::", "fd00:1:8000::", "fd00:1:1::8000:0:0", "2001:db8::8000:0"}
	}
	b := netip.MustParseAddr(rapid.SampledFrom(first).Draw(t, label)).AsSlice()
	b[len(b)-1] = byte(rapid.IntRange(1, 5).Draw(t, label))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// drawService draws what ipvsadm can say.
func drawService(t *rapid.T) *lb.Service {
	family := rapid.SampledFrom([]lb.Family{lb.IPv4, lb.IPv6}).Draw(t, "family")
	f := lb.Frontend{
		Addr:     netip.AddrPortFrom(drawAddr(t, family, "VIP"), rapid.SampledFrom([]uint16{0, 1, 80, 65535}).Draw(t, "port")),
		Protocol: rapid.SampledFrom([]lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}).Draw(t, "protocol"),
	}
	s := &lb.Service{
		ID: lb.ServiceID{Name: f.String(), Family: family}, Frontends: []lb.Frontend{f},
		Scheduler: rapid.SampledFrom(sched.Names()).Draw(t, "scheduler"),
		OnePacket: f.Protocol == lb.UDP && rapid.Bool().Draw(t, "one packet"),
	}
	if k, err := sched.Find(s.Scheduler); err == nil {
		s.SchedulerFlags = k.Flags & lb.SchedulerFlags(rapid.IntRange(0, 3).Draw(t, "flags"))
	}
	if f.Addr.Port() == 0 || rapid.Bool().Draw(t, "affinity") {
		s.Affinity.Timeout = time.Duration(rapid.IntRange(1, 31*24*3600).Draw(t, "timeout")) * time.Second
		s.Affinity.Prefix = uint8(rapid.IntRange(1, family.Bits()).Draw(t, "prefix"))
	}
	ports := []uint16{80, 8080}
	switch {
	case f.Protocol == lb.SCTP:
		ports = []uint16{f.Addr.Port()}
	case f.Addr.Port() == 0:
		ports = append(ports, 0)
	}
	s.Backends = rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) lb.Backend {
		b := lb.Backend{
			Addr:   netip.AddrPortFrom(drawAddr(t, family, "backend"), rapid.SampledFrom(ports).Draw(t, "port")),
			Weight: rapid.Uint16().Draw(t, "weight"),
			Upper:  uint32(rapid.IntRange(0, math.MaxInt32).Draw(t, "upper")),
		}
		b.Lower = uint32(rapid.IntRange(0, int(b.Upper)).Draw(t, "lower"))
		return b
	}), 0, 6, func(b lb.Backend) netip.AddrPort { return b.Addr }).Draw(t, "backends")
	return s
}

// TestSavedRulesAreReadAsTheSameServices: with the same lists.
func TestSavedRulesAreReadAsTheSameServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		services := rapid.SliceOfNDistinct(rapid.Custom(drawService), 1, 6, func(s *lb.Service) lb.ServiceID { return s.ID }).Draw(t, "services")
		text, notes := save(t, false, services...)
		if len(notes) > 0 {
			t.Fatalf("notes %q", notes)
		}
		read := parse(t, text)
		if len(read) != len(services) {
			t.Fatalf("%d services of %d:\n%s", len(read), len(services), text)
		}
		for _, want := range services {
			i := slices.IndexFunc(read, func(s *lb.Service) bool { return s.ID == want.ID })
			if i < 0 || !want.Equal(read[i]) {
				t.Fatalf("%s is not the same:\n%s", want.ID, text)
			}
		}
		if again, _ := save(t, false, read...); again != text {
			t.Fatalf("saved again (-first +again):\n%s", cmp.Diff(text, again))
		}
	})
}
