// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fakeReader answers from memory. errs are returned by the method of the name.
type fakeReader struct {
	snap     *lb.Snapshot
	counters dataplane.Counters
	recount  dataplane.Recount
	flows    []dataplane.Flow
	clients  []dataplane.Client
	status   dataplane.Status
	errs     map[string]error
	closed   int
}

func (r *fakeReader) Read() (*lb.Snapshot, error) { return r.snap, r.errs["Read"] }

func (r *fakeReader) Counters() (dataplane.Counters, error) { return r.counters, r.errs["Counters"] }

func (r *fakeReader) Recount(context.Context) (dataplane.Recount, error) {
	return r.recount, r.errs["Recount"]
}

func (r *fakeReader) Flows(yield func(dataplane.Flow) error) error {
	for _, f := range r.flows {
		if err := yield(f); err != nil {
			return err
		}
	}
	return r.errs["Flows"]
}

func (r *fakeReader) Clients(yield func(dataplane.Client) error) error {
	for _, c := range r.clients {
		if err := yield(c); err != nil {
			return err
		}
	}
	return r.errs["Clients"]
}

func (r *fakeReader) Status() (dataplane.Status, error) { return r.status, r.errs["Status"] }

func (r *fakeReader) Close() error { r.closed++; return r.errs["Close"] }

func newFakeReader(t *testing.T) *fakeReader {
	t.Helper()
	web := lb.ServiceID{Name: "web", Family: lb.IPv4}
	web6 := lb.ServiceID{Name: "web", Family: lb.IPv6}
	vip, vip6 := netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("[2001:db8::10]:80")
	one, six := netip.MustParseAddrPort("192.0.2.2:8080"), netip.MustParseAddrPort("[2001:db8:1::2]:8080")
	snap, err := lb.NewSnapshot(
		&lb.Service{ID: web, Scheduler: "rr", Frontends: []lb.Frontend{{Addr: vip, Protocol: lb.TCP}}, Backends: []lb.Backend{{Addr: one, Weight: 1}}},
		&lb.Service{ID: web6, Scheduler: "wrr", Frontends: []lb.Frontend{{Addr: vip6, Protocol: lb.TCP}}, Backends: []lb.Backend{{Addr: six, Weight: 5}}},
		&lb.Service{ID: lb.ServiceID{Name: "idle", Family: lb.IPv4}, Scheduler: "rr"},
	)
	if err != nil {
		t.Fatal(err)
	}
	flow := func(id lb.ServiceID, client string, vip, backend netip.AddrPort) dataplane.Flow {
		return dataplane.Flow{
			Protocol: lb.TCP, Client: netip.MustParseAddrPort(client), VIP: vip, Backend: backend, Service: id,
			State: "ESTABLISHED", Idle: 3 * time.Second, Expires: 897 * time.Second, InPackets: 4, InBytes: 400, OutPackets: 5, OutBytes: 5000,
		}
	}
	return &fakeReader{
		snap: snap,
		counters: dataplane.Counters{
			Backends: map[lb.BackendID]dataplane.BackendCounters{
				{Service: web, Addr: one}:  {Active: 2, Inactive: 1, Connections: 9, InPackets: 90, InBytes: 9000, OutPackets: 80, OutBytes: 80000},
				{Service: web6, Addr: six}: {Active: 1, Connections: 3},
			},
			Drops: map[string]uint64{"no_flow": 3},
		},
		recount: dataplane.Recount{Compared: 2, Flows: 4, Took: time.Millisecond},
		flows: []dataplane.Flow{
			flow(web, "198.51.100.8:50001", vip, one), flow(web, "198.51.100.7:50000", vip, one),
			flow(web6, "[2001:db8:9::1]:50000", vip6, six),
		},
		status: dataplane.Status{
			Dataplane: "ebpf", Generation: 3, Entries: 6, Limit: 524288, HalfOpen: 1, Method: "tcx", Why: "the links that are pinned are of this kind",
			Devices: []dataplane.Device{{Name: "lo", Index: 1, Why: "loopback", XDP: "off", XDPWhy: "--xdp off"}, {Name: "eth0", Index: 2, Ingress: true, Egress: true, XDP: "off", XDPWhy: "--xdp off"}},
			Maps:    []dataplane.Fill{{Map: "flows", Used: 6, Limit: 524288}, {Map: "vips", Used: 4, Limit: 131072}},
		},
		errs: map[string]error{},
	}
}

// testEnv is an env whose kernel is r, whose clock moves only by waiting, and
// whose output is in two buffers.
type testEnv struct {
	env
	out, err bytes.Buffer
	clock    time.Time
	// meanwhile, if not nil, happens during a wait.
	meanwhile func()
}

func newTestEnv(r *fakeReader) *testEnv {
	e := &testEnv{}
	e.env = env{
		stdout: &e.out, stderr: &e.err, runDir: "/run/waggle-test-none",
		open: func(pinPath string) (reader, error) {
			if pinPath != defaultPinPath {
				return nil, fmt.Errorf("open %s: %w", pinPath, dataplane.ErrNotRunning)
			}
			return r, nil
		},
		cleanup: func(pinPath string) ([]string, error) {
			if pinPath != defaultPinPath {
				return nil, nil
			}
			return []string{pinPath + "/flows", pinPath}, nil
		},
		reasons: func() []string { return []string{"empty_pool", "no_flow"} },
		build: func() (*debug.BuildInfo, bool) {
			return &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.0"}, Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.modified", Value: "true"},
			}}, true
		},
		kernel: func() (string, error) { return "6.18.0", nil },
		now:    func() time.Time { return e.clock },
		wait: func(ctx context.Context, d time.Duration) error {
			e.clock = e.clock.Add(d)
			if e.meanwhile != nil {
				e.meanwhile()
			}
			return ctx.Err()
		},
	}
	return e
}

// transcript runs a command line and returns what a user sees, stdout first.
func (e *testEnv) transcript(t *testing.T, args ...string) string {
	t.Helper()
	e.out.Reset()
	e.err.Reset()
	code := execute(t.Context(), &e.env, args)
	line := "$ waggle"
	for _, a := range args {
		line += " " + a
	}
	return fmt.Sprintf("%s\n%s-- stderr, exit %d --\n%s", line, e.out.String(), code, e.err.String())
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
