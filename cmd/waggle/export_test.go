// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// newExportReader has what rules can say and what they cannot.
func newExportReader(t *testing.T) *fakeReader {
	t.Helper()
	addr := netip.MustParseAddrPort
	snap, err := lb.NewSnapshot(
		&lb.Service{
			ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "sh", SchedulerFlags: lb.SchedulerPort,
			Affinity:  lb.Affinity{Timeout: 5 * time.Minute, Prefix: 24},
			Frontends: []lb.Frontend{{Addr: addr("203.0.113.10:80"), Protocol: lb.TCP, Masquerade: lb.MasqueradeAlways}},
			Backends: []lb.Backend{
				{Addr: addr("192.0.2.2:8080"), Weight: 5, Upper: 100, Lower: 50},
				{Addr: addr("192.0.2.10:8080"), Weight: 1, Unhealthy: true},
				{Addr: addr("192.0.2.3:8080"), Weight: 1},
			},
			Lost: lb.LostReset,
		},
		&lb.Service{
			ID: lb.ServiceID{Name: "dns", Family: lb.IPv6}, Scheduler: "wlc",
			Frontends: []lb.Frontend{{Addr: addr("[2001:db8::53]:53"), Protocol: lb.UDP}, {Addr: addr("[2001:db8::53]:53"), Protocol: lb.TCP}},
			Backends:  []lb.Backend{{Addr: addr("[2001:db8:1::2]:53"), Weight: 1}},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeReader{snap: snap, errs: map[string]error{}}
}

func TestExport(t *testing.T) {
	for _, tt := range []struct{ name, args string }{
		{"export", "export --ipvsadm"},
		{"export-sorted", "export --ipvsadm --sorted"},
		{"export-no-form", "export"},
		{"export-not-running", "export --ipvsadm --pin-path /sys/fs/bpf/other"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newExportReader(t)
			got := newTestEnv(r).transcript(t, strings.Split(tt.args, " ")...)
			compareGolden(t, filepath.Join("testdata", "verbs", tt.name+".txt"), got)
			if r.closed > 1 {
				t.Errorf("the pins were closed %d times", r.closed)
			}
		})
	}
}

func TestExportOfNothingSaysSo(t *testing.T) {
	e := newTestEnv(&fakeReader{errs: map[string]error{}})
	want := "$ waggle export --ipvsadm\n-- stderr, exit 0 --\nno services at /sys/fs/bpf/waggle\n"
	if got := e.transcript(t, "export", "--ipvsadm"); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestExportFailsIfTheServicesCannotBeRead(t *testing.T) {
	for _, method := range []string{"Read", "Close"} {
		r := newExportReader(t)
		r.errs[method] = errors.New("map is broken")
		e := newTestEnv(r)
		got := e.transcript(t, "export", "--ipvsadm")
		if !strings.Contains(got, "exit 1") || !strings.Contains(got, "map is broken") || e.out.Len() > 0 || r.closed != 1 {
			t.Errorf("with a broken %s, closed %d times:\n%s", method, r.closed, got)
		}
	}
}
