// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// newServers makes a lab without a load balancer and starts its servers.
func newServers(t *testing.T) (*netlab.Lab, []backend) {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "traffic", Clients: 2, Servers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	var backends []backend
	for _, s := range lab.Servers() {
		b := backend{s.Device, 1, netip.AddrPortFrom(s.V4, serverPort), netip.AddrPortFrom(s.V6, serverPort)}
		echo, err := serve(t.Context(), s.Namespace, b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { echo.Close() })
		backends = append(backends, b)
	}
	return lab, backends
}

// Without a load balancer all flows to one server are answered by that one.
func TestTrafficThroughPlainRouting(t *testing.T) {
	lab, backends := newServers(t)
	ports := []uint16{firstFlowPort, firstFlowPort}
	var sources []source
	for i, c := range lab.Clients() {
		sources = append(sources, source{c, &ports[i]})
	}
	for _, b := range backends {
		for _, p := range protocols {
			for _, f := range families {
				got := spread(t.Context(), sources, p, b.addr(f), 7)
				if got.failed != 0 {
					t.Errorf("%s over %s to %s: %d failed: %v", p, f, b.name, got.failed, got.first)
				}
				if diff := cmp.Diff(map[string]int{b.name: 7}, got.got); diff != "" {
					t.Errorf("%s over %s (-want +got):\n%s", p, f, diff)
				}
			}
		}
	}
	// 8 services of 7 flows each: 4 to the first client, 3 to the second.
	if diff := cmp.Diff([]uint16{firstFlowPort + 32, firstFlowPort + 24}, ports); diff != "" {
		t.Errorf("next ports (-want +got):\n%s", diff)
	}
}

func TestFlowsToNobodyFail(t *testing.T) {
	lab, backends := newServers(t)
	port := uint16(firstFlowPort)
	nobody := netip.AddrPortFrom(backends[0].v4.Addr(), serverPort+1)
	for _, p := range protocols {
		got := spread(t.Context(), []source{{lab.Clients()[0], &port}}, p, nobody, 2)
		if got.failed != 2 || len(got.got) != 0 || got.first == nil {
			t.Errorf("%s to nobody: %d failed (%v), answers %v; want 2 and none", p, got.failed, got.first, got.got)
		}
	}
}

func TestRatesThroughPlainRouting(t *testing.T) {
	lab, backends := newServers(t)
	const size = 9 << 20
	for _, f := range families {
		addr := backends[0].addr(f)
		for what, m := range map[string]measurement{
			TCPConnections: connections(t.Context(), lab.Clients(), addr, 100*time.Millisecond),
			UDPRoundTrips:  roundTrips(t.Context(), lab.Clients(), addr, 100*time.Millisecond),
		} {
			if m.err != nil || m.count == 0 || m.elapsed <= 0 {
				t.Errorf("%s over %s: %d in %v, error %v", what, f, m.count, m.elapsed, m.err)
			}
		}
		if m := bulk(t.Context(), lab.Clients()[0], addr, size); m.err != nil || m.count != size {
			t.Errorf("bulk over %s: %d of %d bytes, error %v", f, m.count, size, m.err)
		}
	}
	nobody := netip.AddrPortFrom(backends[0].v4.Addr(), serverPort+1)
	for what, m := range map[string]measurement{
		TCPConnections: connections(t.Context(), lab.Clients(), nobody, 100*time.Millisecond),
		UDPRoundTrips:  roundTrips(t.Context(), lab.Clients(), nobody, 100*time.Millisecond),
		TCPBulk:        bulk(t.Context(), lab.Clients()[0], nobody, size),
	} {
		if m.err == nil || m.count != 0 {
			t.Errorf("%s to nobody: %d, error %v; want 0 and an error", what, m.count, m.err)
		}
	}
}

func fakeOptions(t *testing.T, mode string) Options {
	t.Helper()
	t.Setenv(fakeEnv, mode)
	return Options{
		Exe: os.Args[0], PinRoot: t.TempDir(), Schedulers: []string{"rr", "wrr"}, Weights: []uint16{5, 3, 1},
		Flows: 18, BulkBytes: 3 << 20, RateTime: 50 * time.Millisecond, Progress: t.Output(),
	}
}

// run measures with a fake waggle and checks that nothing is left behind.
func run(t *testing.T, opts Options) *Result {
	t.Helper()
	d, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Measure(t.Context())
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, opts)
	return r
}

func wantNothingLeft(t *testing.T, opts Options) {
	t.Helper()
	pins, err := os.ReadDir(opts.PinRoot)
	if err != nil {
		t.Fatal(err)
	}
	spaces, err := filepath.Glob(filepath.Join(netlab.Dir, fmt.Sprintf("waggle-demo-%d-*", os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	if len(pins) != 0 || len(spaces) != 0 {
		t.Errorf("left behind: pins %v, namespaces %v", pins, spaces)
	}
}

func TestDemoAcceptsAGoodBalancer(t *testing.T) {
	opts := fakeOptions(t, fakeGood)
	// What a killed demo left; the largest pid Linux gives is 2^22.
	stale := filepath.Join(opts.PinRoot, "waggle-demo-4194305")
	foreign := filepath.Join(opts.PinRoot, "waggle")
	for _, dir := range []string{stale, foreign} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the pins of a dead demo are still there")
	}
	if err := os.Remove(foreign); err != nil {
		t.Errorf("pins that are not a demo's: %v", err)
	}
	r, err := d.Measure(t.Context())
	if err != nil {
		t.Error(err)
	}
	var text strings.Builder
	if err := errors.Join(d.WriteExplore(&text), d.Close()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text.String(), "--pin-path "+d.pinPath) {
		t.Errorf("what to try does not name the pin path:\n%s", &text)
	}
	wantNothingLeft(t, opts)
	if !r.OK || len(r.Distributions) != 8 || len(r.Rates) != 6 {
		t.Errorf("ok %v, problems %q, %d distributions, %d rates; want ok, 8, 6", r.OK, r.Problems, len(r.Distributions), len(r.Rates))
	}
}

func TestDemoFindsIgnoredWeights(t *testing.T) {
	r := run(t, fakeOptions(t, fakeSkewed))
	for _, d := range r.Distributions {
		if d.OK != (d.Scheduler == "rr") {
			t.Errorf("%s %s %s: ok is %v", d.Scheduler, d.Protocol, d.Family, d.OK)
		}
	}
	if r.OK {
		t.Error("the result is ok")
	}
	if last := r.Problems[len(r.Problems)-1]; last != "waggle stats: 7 packets of reason no_flow: of the fake" {
		t.Errorf("the last problem is %q, want what the daemon dropped", last)
	}
}

func TestDemoFindsChangedBytes(t *testing.T) {
	r := run(t, fakeOptions(t, fakeCorrupt))
	for _, x := range r.Rates {
		if x.OK != (x.What != TCPBulk) {
			t.Errorf("%s over %s: ok is %v", x.What, x.Family, x.OK)
		}
	}
	if all := strings.Join(r.Problems, "\n"); r.OK || !strings.Contains(all, "came back as") {
		t.Errorf("ok %v, problems %q", r.OK, r.Problems)
	}
}

func TestStartShowsTheLogOfABrokenDaemon(t *testing.T) {
	opts := fakeOptions(t, fakeBroken)
	_, err := Start(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "the fake was told to break") {
		t.Errorf("error is %v, want the daemon's log", err)
	}
	wantNothingLeft(t, opts)
}

func TestCloseReportsADaemonThatEndsBadly(t *testing.T) {
	opts := fakeOptions(t, fakeRude)
	d, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err == nil || !strings.Contains(err.Error(), "the fake was told to end badly") {
		t.Errorf("error is %v, want the daemon's log", err)
	}
	wantNothingLeft(t, opts)
}

// cancelAt ends a context when a text is written.
type cancelAt struct {
	text   string
	cancel context.CancelFunc
}

func (c cancelAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.text) {
		c.cancel()
	}
	return len(p), nil
}

func TestInterruptLeavesNothing(t *testing.T) {
	for mode, at := range map[string]string{fakeMute: "starting", fakeGood: "measuring"} {
		t.Run(at, func(t *testing.T) {
			opts := fakeOptions(t, mode)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			opts.Progress = cancelAt{at, cancel}
			d, err := Start(ctx, opts)
			if mode == fakeGood {
				if err != nil {
					t.Fatal(err)
				}
				_, err = d.Measure(ctx)
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v, want %v", err, context.Canceled)
			}
			wantNothingLeft(t, opts)
		})
	}
}
