// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

func desiring(snap *lb.Snapshot) control.Status {
	return control.Status{Desired: snap, Sources: []control.SourceStatus{{Name: "file a", Delivered: true, Services: snap.Len()}}}
}

func snapshotOf(t *testing.T, services ...*lb.Service) *lb.Snapshot {
	t.Helper()
	s, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everything has all that can be written of a service.
func everything() *lb.Service {
	return &lb.Service{
		ID: lb.ServiceID{Name: "all", Family: lb.IPv6}, Scheduler: "mh", SchedulerFlags: lb.SchedulerPort | lb.SchedulerFallback,
		Frontends: []lb.Frontend{{
			Addr: netip.MustParseAddrPort("[2001:db8::11]:0"), Protocol: lb.UDP,
			Policy: lb.PolicyLocalExternal, Masquerade: lb.MasqueradeAlways, Restricted: true,
		}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/48")},
		Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("[2001:db8:1::3]:0"), Weight: 65535, Upper: 7, Lower: 3},
			{Addr: netip.MustParseAddrPort("[2001:db8:1::2]:0"), Unhealthy: true, Outside: lb.Local},
		},
		Affinity:  lb.Affinity{Timeout: lb.MaxAffinity, Prefix: 64, Quiesced: true},
		OnePacket: true, HostSockets: true, Lost: lb.LostDrop, Reuse: lb.ReuseNever,
	}
}

// What the daemon says of a service comes through the socket as it is.
func TestDiffOfTheDaemonsServices(t *testing.T) {
	r := newFakeReader(t)
	r.snap = snapshotOf(t, everything())
	e := daemonOf(t, r, dataplane.Status{}, desiring(snapshotOf(t, everything())))
	if got, want := e.transcript(t, "diff"), "$ waggle diff\n-- stderr, exit 0 --\n"; got != want {
		t.Errorf("of what is equal: %q, want %q", got, want)
	}
	changed := everything()
	changed.Backends[0].Weight, changed.Lost = 1, lb.LostKeep
	r.snap = snapshotOf(t, changed, &lb.Service{ID: lb.ServiceID{Name: "extra", Family: lb.IPv4}})
	compareGolden(t, filepath.Join("testdata", "verbs", "diff.txt"), e.transcript(t, "diff"))
	if e.clock.IsZero() {
		t.Error("it did not look again")
	}
}

func TestAChangeThatIsBeingWrittenIsNoDifference(t *testing.T) {
	r := newFakeReader(t)
	held := r.snap
	r.snap = snapshotOf(t)
	e := daemonOf(t, r, dataplane.Status{}, desiring(held))
	e.meanwhile = func() { r.snap = held }
	if got, want := e.transcript(t, "diff"), "$ waggle diff\n-- stderr, exit 0 --\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A file that says what newFakeReader's kernel holds, and one that does not.
func TestDiffOfAFileNeedsNoDaemon(t *testing.T) {
	const same = `
- {name: web, scheduler: wrr, frontends: ["203.0.113.10:80/TCP", "[2001:db8::10]:80/TCP"], backends: [{address: "192.0.2.2:8080"}, {address: "[2001:db8:1::2]:8080", weight: 5}]}
`
	file := filepath.Join(t.TempDir(), "services.yaml")
	text := "apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:" + same
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newFakeReader(t)
	for _, svc := range []string{"web/ipv4", "idle/ipv4"} {
		e := newTestEnv(r)
		got := e.transcript(t, "diff", "--services", file)
		if !strings.Contains(got, svc) || !strings.HasSuffix(got, "-- stderr, exit 1 --\n") {
			t.Errorf("no %s, or another exit than 1, in:\n%s", svc, got)
		}
	}
	r.snap = snapshotOf(t, r.snap.Service(lb.ServiceID{Name: "web", Family: lb.IPv6}), &lb.Service{
		ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "wrr", Frontends: []lb.Frontend{{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Protocol: lb.TCP}},
		Backends: []lb.Backend{{Addr: netip.MustParseAddrPort("192.0.2.2:8080"), Weight: 1}},
	})
	e := newTestEnv(r)
	if got := e.transcript(t, "diff", "--services", file); !strings.HasSuffix(got, "\n-- stderr, exit 0 --\n") || e.out.Len() > 0 {
		t.Errorf("of what is equal:\n%s", got)
	}
}

func TestWhatCannotBeComparedIsNoDifference(t *testing.T) {
	other := desiring(nil)
	other.Sources[0].Delivered = false
	broken := newFakeReader(t)
	broken.errs["Read"] = errors.New("map is broken")
	empty := filepath.Join(t.TempDir(), "services.yaml")
	if err := os.WriteFile(empty, []byte("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		e    *testEnv
		args []string
		want string
	}{
		"no daemon":   {newTestEnv(newFakeReader(t)), nil, "waggle diff --services FILE"},
		"not synced":  {daemonOf(t, newFakeReader(t), dataplane.Status{}, other), nil, "waiting for file a"},
		"not merged":  {daemonOf(t, newFakeReader(t), dataplane.Status{}, control.Status{}), nil, "ask again"},
		"no file":     {newTestEnv(newFakeReader(t)), []string{"--services", "testdata/nothing.yaml"}, "no such file"},
		"no pins":     {newTestEnv(newFakeReader(t)), []string{"--services", empty, "--pin-path", "/sys/fs/bpf/other"}, "no dataplane found"},
		"broken maps": {daemonOf(t, broken, dataplane.Status{}, desiring(snapshotOf(t))), nil, "map is broken"},
		"a scheduler": {newTestEnv(newFakeReader(t)), []string{"--scheduler", "best"}, "--scheduler"},
	} {
		got := tc.e.transcript(t, append([]string{"diff"}, tc.args...)...)
		if !strings.Contains(got, tc.want) || !strings.Contains(got, "-- stderr, exit 2 --") || tc.e.out.Len() > 0 {
			t.Errorf("%s: want exit 2 and %q:\n%s", name, tc.want, got)
		}
	}
}

func TestADaemonOfAnotherBuildIsNotCompared(t *testing.T) {
	r := newFakeReader(t)
	e := daemonOf(t, r, dataplane.Status{}, desiring(r.snap))
	build := e.build
	e.build = func() (*debug.BuildInfo, bool) {
		b, ok := build()
		b.Main.Version = "v0.2.0"
		return b, ok
	}
	if got := e.transcript(t, "diff"); !strings.Contains(got, "of version v0.1.0, commit 0123abc, this binary of v0.2.0") || !strings.Contains(got, "exit 2") {
		t.Errorf("got\n%s", got)
	}
}
