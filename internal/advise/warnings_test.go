// SPDX-License-Identifier: Apache-2.0

package advise

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

func service(name string, vips []string, backends ...string) *lb.Service {
	svc := &lb.Service{ID: lb.ServiceID{Name: name, Family: lb.FamilyOf(netip.MustParseAddr(vips[0]))}, Scheduler: "rr"}
	for i, v := range vips {
		addr := netip.AddrPortFrom(netip.MustParseAddr(v), uint16(80+i)+uint16(len(name)))
		svc.Frontends = append(svc.Frontends, lb.Frontend{Addr: addr, Protocol: lb.TCP})
	}
	for _, b := range backends {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: netip.MustParseAddrPort(b), Weight: 1})
	}
	return svc
}

func set(addrs ...string) map[netip.Addr]bool {
	m := make(map[netip.Addr]bool)
	for _, a := range addrs {
		m[netip.MustParseAddr(a)] = true
	}
	return m
}

var both = map[lb.Family]bool{lb.IPv4: true, lb.IPv6: true}

func TestWarnings(t *testing.T) {
	web := service("web", []string{"203.0.113.10"}, "192.0.2.2:80")
	dns := service("dns6", []string{"2001:db8::10"}, "[2001:db8:1::2]:53")
	for _, tt := range []struct {
		name     string
		services []*lb.Service
		facts    Facts
		want     []Warning
	}{
		{"nothing is served", nil, Facts{}, nil},
		{"VIPs assigned and routed", []*lb.Service{web, dns}, Facts{Own: set("203.0.113.10"), Routed: set("2001:db8::10"), Forwards: both}, nil},
		{
			"VIPs of neither kind", []*lb.Service{web, dns}, Facts{Own: set("203.0.113.11"), Forwards: both},
			[]Warning{
				{unreached, "203.0.113.10", "web/ipv4", "ip addr add 203.0.113.10/32 dev lo"},
				{unreached, "2001:db8::10", "dns6/ipv6", "ip addr add 2001:db8::10/128 dev lo"},
			},
		},
		{
			"one VIP of many services is one cause",
			[]*lb.Service{web, service("secure", []string{"203.0.113.10", "203.0.113.10"}), service("https", []string{"203.0.113.10"})},
			Facts{Forwards: both},
			[]Warning{{unreached, "203.0.113.10", "https/ipv4 and 2 more", "ip addr add 203.0.113.10/32 dev lo"}},
		},
		{
			"forwarding of a family that is served", []*lb.Service{web}, Facts{Own: set("203.0.113.10")},
			[]Warning{{noForward, "net.ipv4.ip_forward", "web/ipv4", "sysctl -w net.ipv4.ip_forward=1"}},
		},
		{
			"forwarding of the other family", []*lb.Service{web, dns},
			Facts{Own: set("203.0.113.10", "2001:db8::10"), Forwards: map[lb.Family]bool{lb.IPv4: true}},
			[]Warning{{noForward, "net.ipv6.conf.all.forwarding", "dns6/ipv6", "sysctl -w net.ipv6.conf.all.forwarding=1"}},
		},
		{"backends on this machine need no forwarding", []*lb.Service{web}, Facts{Own: set("203.0.113.10", "192.0.2.2")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			snap, err := lb.NewSnapshot(tt.services...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, Warnings(snap, tt.facts)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEachCauseIsLoggedOnceUntilItComesBack(t *testing.T) {
	var log bytes.Buffer
	a := &Adviser{log: slog.New(slog.NewTextHandler(&log, nil))}
	w := []Warning{{unreached, "203.0.113.10", "web/ipv4", "mend it"}}
	other := []Warning{{unreached, "203.0.113.10", "another/ipv4", "mend it"}}
	for i, step := range []struct {
		all  []Warning
		want int // lines so far
	}{{w, 1}, {w, 1}, {other, 1}, {nil, 1}, {w, 2}} {
		a.warn(step.all)
		if got := strings.Count(log.String(), "\n"); got != step.want {
			t.Errorf("step %d: %d lines, want %d:\n%s", i, got, step.want, &log)
		}
	}
	for _, want := range []string{"subject=203.0.113.10", "service=web/ipv4", `remedy="mend it"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in:\n%s", want, &log)
		}
	}
}

func TestManyWarningsAreCounted(t *testing.T) {
	var log bytes.Buffer
	a := &Adviser{log: slog.New(slog.NewTextHandler(&log, nil))}
	var all []Warning
	for i := range maxWarnings + 7 {
		all = append(all, Warning{unreached, fmt.Sprint(i), "web/ipv4", "mend it"})
	}
	a.warn(all)
	if n := strings.Count(log.String(), "\n"); n != maxWarnings+1 || !strings.Contains(log.String(), "warnings=7") {
		t.Errorf("%d lines, want %d and a count of 7:\n%s", n, maxWarnings+1, &log)
	}
}
