// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

func kept(s *lb.Service) { s.Affinity = lb.Affinity{Timeout: time.Minute, Prefix: 32} }

func TestWhatIsNotSupportedIsNamed(t *testing.T) {
	tests := []struct {
		svc  *lb.Service
		want string // "": it is
	}{
		{web("1"), ""},
		{web("1", scheduled("lblc")), `scheduler "lblc" is not supported`},
		{web("1", func(s *lb.Service) { s.SchedulerFlags = lb.SchedulerPort }), "it takes none"},
		{service(strings.Repeat("n", 200), "203.0.113.1:80", "1"), "the name has 200 bytes"},
		{service("", "203.0.113.1:80", "1"), "the name has 0 bytes"},
		{web("1", kept, func(s *lb.Service) {
			s.Frontends[0].Addr = netip.MustParseAddrPort("203.0.113.1:0")
			s.Frontends[0].Restricted = true
			s.Backends[0].Addr = netip.MustParseAddrPort("192.0.2.1:0")
		}), "write each port"},
		{web("1", kept, func(s *lb.Service) { s.Frontends[0].Addr = netip.MustParseAddrPort("203.0.113.1:0") }), "write port 0"},
		{web("1", func(s *lb.Service) { s.Backends[0].Upper = 1<<32 - 1 }), "at most 1073741823"},
		{&lb.Service{ID: lb.ServiceID{Name: "six", Family: lb.IPv6}, Scheduler: "rr", Affinity: lb.Affinity{Timeout: time.Minute}}, "write a mask of 1 to 128"},
	}
	for _, tt := range tests {
		err := supports(tt.svc)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("service %s: %v, want %q", tt.svc.ID, err, tt.want)
		}
	}
}

func TestDifferences(t *testing.T) {
	tests := []struct {
		svc  *lb.Service
		want []string // what each sentence has
	}{
		{web("1"), nil},
		{web("1", policy(lb.PolicyLocal)), nil},
		{web("1", policy(lb.PolicyLocalExternal)), []string{"local backends only"}},
		{web("1", kept), nil},
		{web("1", kept, atNode(30080)), []string{"each frontend's own"}},
		{web("1", kept, func(s *lb.Service) { s.Affinity.Lapses, s.Affinity.Quiesced = true, true }), []string{"weight 0", "as long as a connection"}},
		{web("1", func(s *lb.Service) { s.Lost = lb.LostDrop }), []string{"reset, not dropped"}},
		{web("1", scheduled("dh")), []string{"dh would refuse"}},
		{web("1", func(s *lb.Service) { s.Reuse = lb.ReuseNever }), []string{"picks afresh"}},
	}
	for i, tt := range tests {
		got := differences(tt.svc)
		if len(got) != len(tt.want) {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
			continue
		}
		for j, want := range tt.want {
			if !strings.Contains(got[j], want) {
				t.Errorf("%d: %q, want %q", i, got[j], want)
			}
		}
	}
}
