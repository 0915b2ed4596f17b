// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/testbinary"
	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// TestMain builds the waggle that is measured.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

var waggle string

func testMain(m *testing.M) int {
	w, err := testbinary.BuildWaggle()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer w.Remove()
	waggle = w.Path("")
	return m.Run()
}

// left is what the benchmark has in the machine.
func left(t *testing.T) (all []string) {
	t.Helper()
	for _, dir := range []string{netlab.Dir, pinRoot, os.TempDir()} {
		found, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("waggle-bench-%d-*", os.Getpid())))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func flags(t *testing.T, args ...string) *options {
	t.Helper()
	o, err := parse(flag.NewFlagSet("benchnet", flag.ContinueOnError), append(args, "-quiet", "-repeats", "1", "-seconds", "1"))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestEveryPathIsMeasured: once by each, with the service in the middle of others; and
// everything that can be measured, by waggle.
func TestEveryPathIsMeasured(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want int // samples
	}{
		{"connections by all", []string{"-services", "5", "-measure", "connections", "-dataplanes", nameList(dataplanes)}, 2 * (2 + 3 + 1 + 2 + 2 + 2)},
		{"all by waggle", []string{"-services", "1", "-dataplanes", "waggle,waggle-sockets", "-measure", "requests,tcp,udp,packets"}, 3*(4+1+1) + 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bench{options: flags(t, append(tt.args, "-waggle", waggle)...)}
			f, err := b.all(t.Context())
			if err := errors.Join(err, b.end()); err != nil {
				t.Fatal(err)
			}
			if len(f.Samples) != tt.want {
				t.Errorf("%d samples, want %d: %v", len(f.Samples), tt.want, f.Samples)
			}
			for _, s := range f.Samples {
				if s.Value <= 0 {
					t.Errorf("nothing was measured: %+v", s)
				}
			}
			if rest := left(t); rest != nil {
				t.Errorf("left behind: %v", rest)
			}
		})
	}
}

// TestInterrupted: what was measured by then is kept, and what was built is removed.
func TestInterrupted(t *testing.T) {
	o := flags(t, "-services", "1", "-measure", "connections", "-dataplanes", "direct,waggle,waggle-sockets", "-waggle", waggle)
	o.repeats = 1 << 20
	b := &bench{options: o}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.measurements = append(o.measurements, measurement{name: "interrupt", does: func(ctx context.Context, r row, seconds int) (map[string]float64, error) {
		time.AfterFunc(time.Second/2, cancel)
		return shortConnections(ctx, r, 3600)
	}})
	f, err := b.all(ctx)
	if !errors.Is(err, context.Canceled) || f == nil || len(f.Samples) != 2*5 {
		t.Errorf("%+v, %v, want the samples of one round, and that it was interrupted", f, err)
	}
	if err := b.end(); err != nil {
		t.Error(err)
	}
	if rest := left(t); rest != nil {
		t.Errorf("left behind: %v", rest)
	}
}

// TestPathsAreWhatTheySay: the paths of the table are those that are measured.
// A socket that is led has the endpoint in its own namespace, one that is not has the VIP.
func TestPathsAreWhatTheySay(t *testing.T) {
	b := &bench{options: flags(t, "-services", "3", "-waggle", waggle, "-dataplanes", "waggle,waggle-sockets,waggle-xdp,nftables,iptables")}
	defer func() {
		if err := b.end(); err != nil {
			t.Error(err)
		}
	}()
	if err := b.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.rows(3) {
		tracked := r.dataplane.rival
		n := r.namespace()
		c, err := n.Dial(t.Context(), "tcp", r.target("tcp", webPort).String())
		if err != nil {
			t.Fatal(err)
		}
		sockets, err := run(context.Background(), n, stopTimeout, command("ss", "-Htn", "state", "established"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if led := contains(sockets, r.tested.ports[0].endpoints); led != r.led {
			t.Errorf("%s from the %s: a socket is led: %v, want %v: %s", r.name, r.from, led, r.led, sockets)
		}
		for _, device := range []string{r.client.Device, r.server.Device} {
			link, err := r.Director.Netlink().LinkByName(device)
			if err != nil {
				t.Fatal(err)
			}
			x := link.Attrs().Xdp
			if by := x != nil && x.Attached; by != (r.dataplane.name == "waggle-xdp") {
				t.Errorf("%s: %s has an XDP program: %v", r.name, device, by)
			}
		}
		count, err := r.Director.Sysctl("net/netfilter/nf_conntrack_count")
		if err != nil {
			t.Fatal(err)
		}
		if (count != "0") != tracked {
			t.Errorf("%s from the %s: %s connections are tracked, want some: %v", r.name, r.from, count, tracked)
		}
	}
	if len(b.rows(3)) != 8 || b.rows(3)[1].from != result.FromClient {
		t.Errorf("rows: %v", b.rows(3))
	}
}

func contains(text []byte, endpoints []netip.AddrPort) bool {
	for _, e := range endpoints {
		if bytes.Contains(text, []byte(" "+e.String())) {
			return true
		}
	}
	return false
}
