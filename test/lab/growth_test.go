// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// Streams run through two growths of the flow table, byte for byte, while others
// come until it is as large as it may become.
func TestStreamsWhileTheFlowTableGrows(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "grow", Clients: 2, Servers: 2, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	s.args = []string{"--metrics-bind-address", metricsAddr, "--flows-min", "1024", "--flows-max", "4096"}
	for _, srv := range s.Servers() {
		s.reveal(srv, 8080)
	}
	s.write(s.text(s.Servers()...))
	s.start()
	var over atomic.Bool
	var bytes atomic.Int64
	var streams errgroup.Group
	for i, c := range s.Clients() {
		for n, to := range []netip.AddrPort{vip4, vip6, vip4} {
			network := "tcp"
			if n == 2 {
				network = "udp"
			}
			tk, err := call(c, network, uint16(20000+10*i+n), to)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tk.Close() })
			streams.Go(func() error {
				for !over.Load() {
					if err := tk.exchange(1 << 16); err != nil {
						return fmt.Errorf("%s to %s: %w", network, to, err)
					}
					bytes.Add(1 << 16)
				}
				return nil
			})
		}
	}
	port := uint16(30000)
	for _, size := range []float64{2048, 4096} {
		for s.scrape().sum("waggle_flow_entries_limit") < size {
			for range 50 {
				tk, err := call(s.Clients()[0], "udp", port, vip4)
				if err != nil {
					t.Fatalf("flow %d, in a table of less than %v: %v", port-30000, size, err)
				}
				tk.Close()
				port++
			}
		}
	}
	s.wantMetrics(map[string]float64{"waggle_flow_entries_limit": 4096, "waggle_flow_entries_max": 4096, "waggle_drops_total": 0})
	over.Store(true)
	if err := streams.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d flows, %d bytes echoed", port-30000, bytes.Load())
	if text := s.must("stats"); !strings.Contains(text, "difference 0\n") {
		t.Errorf("stats:\n%s", text)
	}
	s.logs(2, "the flow table has grown")
}
