// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/info"
)

// supported is a service that has everything, for tests to spoil.
func supported() *lb.Service {
	return &lb.Service{
		ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "wrr",
		Frontends: []lb.Frontend{
			{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Protocol: lb.TCP},
			{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Protocol: lb.UDP},
		},
		Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("192.0.2.2:8080"), Weight: 5},
			{Addr: netip.MustParseAddrPort("192.0.2.2:8081"), Weight: 0},
		},
	}
}

func TestSupportsTakesWhatTheKernelCanDo(t *testing.T) {
	v6 := supported()
	v6.ID.Family = lb.IPv6
	v6.Frontends[0].Addr, v6.Frontends[1].Addr = netip.MustParseAddrPort("[2001:db8::10]:80"), netip.MustParseAddrPort("[2001:db8::10]:53")
	v6.Backends = nil
	long := supported()
	long.ID.Name = strings.Repeat("n", info.MaxName)
	anyPort := supported()
	anyPort.Affinity, anyPort.SchedulerFlags, anyPort.Scheduler = lb.Affinity{Timeout: time.Hour, Prefix: 32}, lb.SchedulerPort|lb.SchedulerFallback, "mh"
	anyPort.Frontends[0].Addr, anyPort.Frontends[1].Addr = netip.MustParseAddrPort("203.0.113.10:0"), netip.MustParseAddrPort("203.0.113.10:0")
	anyPort.Backends[0].Addr = netip.MustParseAddrPort("192.0.2.2:0")
	anyPort.Backends[1].Upper, anyPort.Backends[1].Lower = 3, 3
	sctp := supported()
	sctp.Frontends[1] = lb.Frontend{Addr: netip.MustParseAddrPort("203.0.113.10:8080"), Protocol: lb.SCTP}
	sctp.Backends[1].Addr = netip.MustParseAddrPort("192.0.2.3:8080")
	for _, svc := range []*lb.Service{supported(), v6, long, anyPort, sctp} {
		if err := supports(svc); err != nil {
			t.Error(err)
		}
	}
}

func TestSupportsSaysWhatToWriteInstead(t *testing.T) {
	for _, c := range []struct {
		spoil func(*lb.Service)
		want  string
	}{
		{func(s *lb.Service) { s.ID.Family = 5 }, `service "web": family 5: write 4 or 6`},
		{func(s *lb.Service) { s.ID.Name = strings.Repeat("n", info.MaxName+1) }, "the name has 200 bytes: write at most 199, without NUL"},
		{func(s *lb.Service) { s.ID.Name = "a\x00b" }, "the name has 3 bytes: write at most 199, without NUL"},
		{func(s *lb.Service) { s.Scheduler = "none" }, `service web/ipv4: unknown scheduler "none": write one of `},
		{func(s *lb.Service) { s.Frontends[1].Protocol = 1 },
			"service web/ipv4: frontend 203.0.113.10:80/1: protocol 1 is not supported: write TCP, UDP or SCTP"},
		{func(s *lb.Service) { s.Frontends[1].Protocol = lb.SCTP },
			"service web/ipv4: backend 192.0.2.2:8080: ports of SCTP cannot be translated: write port 80, as in frontend 203.0.113.10:80/SCTP"},
		{func(s *lb.Service) { s.Frontends[1].Addr = netip.AddrPort{} }, "no address: write an IP address and a port"},
		{func(s *lb.Service) { s.Frontends[0].Addr = netip.MustParseAddrPort("203.0.113.10:0") },
			"service web/ipv4: frontend 203.0.113.10:0/TCP: port 0 (any port) needs affinity: write affinity: {timeout: 300s}, or a port from 1 to 65535"},
		{func(s *lb.Service) {
			s.Affinity.Timeout = time.Minute
			s.Backends[1].Addr = netip.MustParseAddrPort("192.0.2.2:0")
		},
			"service web/ipv4: backend 192.0.2.2:0: port 0 is for services of any port, and frontend 203.0.113.10:80/TCP has one: write 1 to 65535"},
		{func(s *lb.Service) { s.Affinity.Timeout = 1500 * time.Millisecond }, "service web/ipv4: affinity of 1.5s: write whole seconds, at most 744h"},
		{func(s *lb.Service) { s.Affinity.Timeout = 745 * time.Hour }, "service web/ipv4: affinity of 745h0m0s: write whole seconds, at most 744h"},
		{func(s *lb.Service) { s.Affinity.Prefix = 33 }, "service web/ipv4: affinity by 33 bits of the client's address: write at most 32"},
		{func(s *lb.Service) { s.OnePacket = true; s.SetMasquerade(lb.MasqueradeAlways) },
			"service web/ipv4: one-packet scheduling keeps nothing by which an answer could be led back: write masquerade: never"},
		{func(s *lb.Service) { s.Backends[0].Upper, s.Backends[0].Lower = 3, 4 },
			"service web/ipv4: backend 192.0.2.2:8080: the lower threshold 4 is above the upper one, 3: write at most that"},
		{func(s *lb.Service) { s.SchedulerFlags = lb.SchedulerPort }, `service web/ipv4: scheduler "wrr" has no flag`},
		{func(s *lb.Service) { s.Frontends[0].Addr = netip.MustParseAddrPort("[2001:db8::1]:80") },
			"frontend [2001:db8::1]:80/TCP: the address is of another family than the service, which is ipv4"},
		{func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("[::ffff:192.0.2.9]:80") },
			"service web/ipv4: backend [::ffff:192.0.2.9]:80: an IPv4 address in IPv6 form: write 192.0.2.9"},
		{func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("[fe80::1%eth0]:80") },
			`backend [fe80::1%eth0]:80: zone "eth0" is not yet supported: write an address without a zone`},
		{func(s *lb.Service) { s.Backends[1].Addr = s.Backends[0].Addr }, "service web/ipv4: backend 192.0.2.2:8080 appears twice: write it once"},
	} {
		svc := supported()
		c.spoil(svc)
		if err := supports(svc); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got error %v\nwant %s", err, c.want)
		}
	}
	svc := supported()
	svc.Scheduler = "none"
	var unknown *sched.UnknownError
	if err := supports(svc); !errors.As(err, &unknown) {
		t.Errorf("error %v, want an UnknownError in it", err)
	}
}

func TestRunsTooLongForTheKernelAreRefused(t *testing.T) {
	svc := supported()
	most := int(bpf.LBLimitsMAX_LEAST)
	for _, c := range []struct {
		rule sched.Rule
		n    int
		want string
	}{
		{sched.Cursor, most + 1, ""},
		{sched.Hash, most + 1, ""},
		{sched.Least, most, ""},
		{sched.Least, most + 1, "service web/ipv4: scheduler wrr takes at most 16384 backends of weight 1 or more, there are 16385: write rr or wrr"},
	} {
		got := ""
		if err := supportsRun(svc, &sched.Run{Rule: c.rule, Slots: make([]uint16, c.n)}); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s of %d slots: %q, want %q", c.rule, c.n, got, c.want)
		}
	}
}

func TestFullErrorNamesTheMap(t *testing.T) {
	want := "map vips is full (8 elements): raise --vips-max, remove services or backends, or wait until removed ones have no connections left"
	if got := (&FullError{"vips", 8}).Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
