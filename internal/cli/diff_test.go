// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/lb"
)

func one(t *testing.T, svc *lb.Service) *lb.Snapshot {
	t.Helper()
	s, err := lb.NewSnapshot(svc)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plain() *lb.Service {
	return &lb.Service{
		ID: web4, Scheduler: "sh", Frontends: []lb.Frontend{frontend("203.0.113.10:80", lb.TCP)},
		Affinity: lb.Affinity{Timeout: time.Minute, Prefix: 24},
		Backends: []lb.Backend{{Addr: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 1}, {Addr: netip.MustParseAddrPort("192.0.2.3:80"), Weight: 1}},
	}
}

// Whatever field of the model differs, the diff has it: a field that is new is
// found by its absence here.
func TestNoFieldIsForgottenByADiff(t *testing.T) {
	changes := map[string]func(*lb.Service){
		"Scheduler":       func(s *lb.Service) { s.Scheduler = "mh" },
		"SchedulerFlags":  func(s *lb.Service) { s.SchedulerFlags = lb.SchedulerPort },
		"Frontends":       func(s *lb.Service) { s.Frontends = append(s.Frontends, frontend("203.0.113.11:80", lb.TCP)) },
		"Backends":        func(s *lb.Service) { s.Backends = s.Backends[:1] },
		"Affinity.Lapses": func(s *lb.Service) { s.Affinity.Lapses = true },
		"Affinity":        func(s *lb.Service) { s.Affinity = lb.Affinity{} },
		"OnePacket":       func(s *lb.Service) { s.OnePacket = true },
		"Lost":            func(s *lb.Service) { s.Lost = lb.LostDrop },
		"HostSockets":     func(s *lb.Service) { s.HostSockets = true },
		"Reuse":           func(s *lb.Service) { s.Reuse = lb.ReuseNever },

		"Affinity.Timeout":  func(s *lb.Service) { s.Affinity.Timeout = time.Hour },
		"Affinity.Prefix":   func(s *lb.Service) { s.Affinity.Prefix = 32 },
		"Affinity.Quiesced": func(s *lb.Service) { s.Affinity.Quiesced = true },
		"Backend.Addr":      func(s *lb.Service) { s.Backends[0].Addr = netip.MustParseAddrPort("192.0.2.9:80") },
		"Backend.Weight":    func(s *lb.Service) { s.Backends[0].Weight = 0 },
		"Backend.Upper":     func(s *lb.Service) { s.Backends[0].Upper = 9 },
		"Backend.Lower":     func(s *lb.Service) { s.Backends[0].Lower = 9 },
		"Backend.Unhealthy": func(s *lb.Service) { s.Backends[0].Unhealthy = true },
		"Backend.Outside":   func(s *lb.Service) { s.Backends[0].Outside = lb.Local },
		"SourceRanges": func(s *lb.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		},
		"Frontend.Addr":       func(s *lb.Service) { s.Frontends[0].Addr = netip.MustParseAddrPort("192.0.2.9:81") },
		"Frontend.Protocol":   func(s *lb.Service) { s.Frontends[0].Protocol = lb.SCTP },
		"Frontend.Policy":     func(s *lb.Service) { s.Frontends[0].Policy = lb.PolicyLocal },
		"Frontend.Masquerade": func(s *lb.Service) { s.SetMasquerade(lb.MasqueradeAlways) },
		"Frontend.Restricted": func(s *lb.Service) { s.Frontends[0].Restricted = true },
		"order":               func(s *lb.Service) { slices.Reverse(s.Backends) },
	}
	for prefix, v := range map[string]any{"": lb.Service{}, "Affinity.": lb.Affinity{}, "Backend.": lb.Backend{}, "Frontend.": lb.Frontend{}} {
		for i := range reflect.TypeOf(v).NumField() {
			if name := reflect.TypeOf(v).Field(i).Name; changes[prefix+name] == nil && name != "ID" {
				t.Errorf("field %s%s is not tried", prefix, name)
			}
		}
	}
	for name, change := range changes {
		other := plain()
		change(other)
		if d := cli.NewDiff(one(t, plain()), one(t, other)); len(d.Items) != 1 || len(d.Items[0].Fields) == 0 {
			t.Errorf("%s: %+v, want the service and the field", name, d.Items)
		}
	}
	if d := cli.NewDiff(one(t, plain()), one(t, plain())); !d.Empty() {
		t.Errorf("equal services differ: %+v", d.Items)
	}
}

// differing are two snapshots with a service of each kind.
func differing(t *testing.T) (desired, kernel *lb.Snapshot) {
	t.Helper()
	changed := plain()
	changed.Scheduler, changed.SchedulerFlags = "mh", lb.SchedulerPort
	changed.Frontends = []lb.Frontend{frontend("203.0.113.11:80", lb.UDP)}
	slices.Reverse(changed.Backends)
	changed.Backends = append(changed.Backends, lb.Backend{Addr: netip.MustParseAddrPort("192.0.2.4:80"), Weight: 3, Upper: 2, Unhealthy: true})
	changed.Backends[0].Weight = 7
	same := func() *lb.Service { return &lb.Service{ID: web6, Scheduler: "rr"} }
	desired, err := lb.NewSnapshot(plain(), same(), &lb.Service{ID: dns, Scheduler: "rr"})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err = lb.NewSnapshot(changed, same(), &lb.Service{ID: gone, Scheduler: "rr"})
	if err != nil {
		t.Fatal(err)
	}
	return desired, kernel
}
