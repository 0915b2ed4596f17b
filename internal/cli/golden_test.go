// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	web4 = lb.ServiceID{Name: "web", Family: lb.IPv4}
	web6 = lb.ServiceID{Name: "web", Family: lb.IPv6}
	dns  = lb.ServiceID{Name: "dns", Family: lb.IPv4}
	gone = lb.ServiceID{Name: "gone", Family: lb.IPv4}
)

func backend(id lb.ServiceID, addr string) lb.BackendID {
	return lb.BackendID{Service: id, Addr: netip.MustParseAddrPort(addr)}
}

func frontend(addr string, p lb.Protocol) lb.Frontend {
	return lb.Frontend{Addr: netip.MustParseAddrPort(addr), Protocol: p}
}

// fixture has what a reader must not lose or mix up: two families of one
// name, many frontends, backends in all states, an orphaned one, an empty pool,
// everything that is written of services, and names that YAML could take for
// other types.
func fixture(t *testing.T) (*lb.Snapshot, dataplane.Counters) {
	t.Helper()
	snap, err := lb.NewSnapshot(
		&lb.Service{ID: web4, Scheduler: "wrr", Frontends: []lb.Frontend{
			frontend("203.0.113.10:443", lb.TCP), frontend("203.0.113.10:80", lb.TCP), frontend("203.0.113.11:80", lb.TCP),
		}, Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("192.0.2.3:8080"), Weight: 0},
			{Addr: netip.MustParseAddrPort("192.0.2.2:8080"), Weight: 5, Upper: 4, Lower: 2},
			{Addr: netip.MustParseAddrPort("192.0.2.6:8080"), Weight: 5, Upper: 4, Unhealthy: true},
		}},
		&lb.Service{
			ID: web6, Scheduler: "wrr", Affinity: lb.Affinity{Timeout: time.Hour, Prefix: 128, Lapses: true}, Frontends: []lb.Frontend{masqueraded(frontend("[2001:db8::10]:80", lb.TCP))},
			Backends: []lb.Backend{{Addr: netip.MustParseAddrPort("[2001:db8:1::2]:8080"), Weight: 5}},
		},
		&lb.Service{
			ID: dns, Scheduler: "sh", SchedulerFlags: lb.SchedulerPort | lb.SchedulerFallback, Frontends: []lb.Frontend{frontend("203.0.113.53:53", lb.UDP)},
			Affinity: lb.Affinity{Timeout: 5 * time.Minute, Prefix: 24, Quiesced: true}, OnePacket: true, Lost: lb.LostReset, Reuse: lb.ReuseNever, HostSockets: true,
		},
		&lb.Service{ID: lb.ServiceID{Name: "true", Family: lb.IPv4}, Scheduler: "rr"},
	)
	if err != nil {
		t.Fatal(err)
	}
	return snap, dataplane.Counters{
		Backends: map[lb.BackendID]dataplane.BackendCounters{
			backend(web4, "192.0.2.2:8080"):       {Active: 3, Inactive: 1, Overloaded: true, Connections: 40, InPackets: 400, InBytes: 40000, OutPackets: 600, OutBytes: 900000},
			backend(web4, "192.0.2.4:8080"):       {Active: 2, Connections: 7, InPackets: 70, InBytes: 7000, OutPackets: 90, OutBytes: 9000},
			backend(web6, "[2001:db8:1::2]:8080"): {Inactive: 9, Connections: 9, InPackets: 9, InBytes: 720},
			backend(web4, "192.0.2.5:8080"):       {Overloaded: true, Connections: 2, InPackets: 20, InBytes: 2000},
			backend(gone, "192.0.2.9:53"):         {Active: 1, Connections: 1, InPackets: 1, InBytes: 64},
		},
		Drops: map[string]uint64{"empty_pool": 12, "no_flow": 3, "from_the_future": 1},
	}
}

func flows() []dataplane.Flow {
	return []dataplane.Flow{
		{
			Protocol: lb.UDP, Client: netip.MustParseAddrPort("198.51.100.7:40000"), VIP: netip.MustParseAddrPort("203.0.113.53:53"),
			Backend: netip.MustParseAddrPort("192.0.2.9:53"), State: "UDP", Idle: 400 * time.Millisecond, Expires: 299600 * time.Millisecond, InPackets: 1, InBytes: 64,
		},
		{
			Protocol: lb.TCP, Client: netip.MustParseAddrPort("[2001:db8:9::1]:50000"), VIP: netip.MustParseAddrPort("[2001:db8::10]:80"),
			Backend: netip.MustParseAddrPort("[2001:db8:1::2]:8080"), Service: web6, State: "TIME_WAIT", Idle: time.Minute, Expires: time.Minute,
		},
		{
			Protocol: lb.TCP, Client: netip.MustParseAddrPort("198.51.100.7:50000"), VIP: netip.MustParseAddrPort("203.0.113.10:80"),
			Backend: netip.MustParseAddrPort("192.0.2.2:8080"), Service: web4, State: "ESTABLISHED", Idle: 3 * time.Second, Expires: 14*time.Minute + 57*time.Second,
			Source:    netip.MustParseAddrPort("192.0.2.1:1024"),
			InPackets: 400, InBytes: 40000, OutPackets: 600, OutBytes: 900000,
		},
	}
}

// clients are a network and one of IPv6.
func clients() []dataplane.Client {
	return []dataplane.Client{
		{Service: web6, Client: netip.MustParseAddr("2001:db8:9::1"), Backend: netip.MustParseAddrPort("[2001:db8:1::2]:8080"), Expires: 90 * time.Second},
		{Service: dns, Client: netip.MustParseAddr("198.51.100.0"), Backend: netip.MustParseAddrPort("192.0.2.9:53"), Assured: true, Expires: 299600 * time.Millisecond},
		{Service: dns, Client: netip.MustParseAddr("198.51.99.0"), Backend: netip.MustParseAddrPort("192.0.2.9:53"), Expires: time.Second},
	}
}

func miscounted() dataplane.Recount {
	return dataplane.Recount{Compared: 3, Skipped: 1, Difference: 9, Wrong: []dataplane.Miscount{
		{
			Backend: backend(web4, "192.0.2.2:8080"), ID: 3, Counted: dataplane.Load{Active: 40, Inactive: 2}, Found: dataplane.Load{Active: 33, Inactive: 2},
			Difference: 6, AtLeast: true,
		},
		{Backend: backend(web6, "[2001:db8:1::2]:8080"), ID: 4, Counted: dataplane.Load{Active: -1, Inactive: 1}, Difference: 2},
		{ID: 7, Counted: dataplane.Load{Inactive: 1}, Difference: 1},
	}}
}

// agent is a daemon with something of everything, of another version.
func agent() *cli.Agent {
	broken := errors.New("map slots is full\nmap vips is full")
	loop := control.Status{
		Sources: []control.SourceStatus{{Name: "file a", Delivered: true, Services: 4}, {Name: "file b"}},
		Applies: 7, Incomplete: 2, Retries: 1, Applied: time.Unix(1_700_000_000, 0), Took: 1234567 * time.Nanosecond,
		Refused: make(map[lb.ServiceID]error),
		Report:  dataplane.Report{Added: 1, Changed: 2, Removed: 3, Failed: map[lb.ServiceID]error{web6: broken, web4: broken}, Err: errors.New("disk on fire")},
	}
	for i := range 11 {
		loop.Refused[lb.ServiceID{Name: fmt.Sprintf("odd-%02d", i), Family: lb.IPv4}] = errors.New("scheduler dice is not supported")
	}
	dp := dataplane.Status{
		Dataplane: "ebpf", Cgroup: "/sys/fs/cgroup", Hooks: []string{"connect4", "connect6"}, Method: "tcx", Why: "the kernel has it, Linux 6.18.0", Audited: time.Unix(1_700_000_060, 0),
		Mended: map[string]uint64{"pin": 2, "program": 1, "qdisc": 0}, Followed: map[string]uint64{"device": 3},
		Grows:  map[string]uint32{"vips": 1 << 21},
		Broken: []string{"somebody put program 7 in the place of waggle's"}, Audit: dataplane.Recount{Difference: 2},
		Devices: []dataplane.Device{
			{Name: "lo", Index: 1, Why: "loopback", XDP: "off", XDPWhy: "loopback"}, {Name: "half", Index: 2, Ingress: true, Why: "no room", XDP: "native", XDPWhy: "nothing speaks against it"},
			{Name: "new", Index: 3},
		},
	}
	for i := range 9 {
		dp.Devices = append(dp.Devices, dataplane.Device{Name: fmt.Sprintf("veth%d", i), Index: 4 + i, Ingress: true, Egress: true, XDP: "off", XDPWhy: "it belongs to a bridge"})
	}
	until := time.Unix(1_700_003_600, 0).UTC()
	return cli.NewAgent(cli.Process{PID: 77, Version: "v0.0.9", Commit: "fedcba9", Started: time.Unix(1_600_000_000, 0)}, loop, &dp, cli.Chosen{
		Why: "--dataplane auto takes it where it can", Otherwise: map[lb.ServiceID]error{dns: errors.New("affinity is each frontend's own")},
		Leaving: &cli.Leaving{Name: "ipvs", Connections: 5, Until: &until},
	}, takeover.Status{
		Items: []string{"nftables table ip kube-proxy", "17 ipsets"}, Kept: []string{"chain KUBE-MARK-MASQ of table ip nat, which CNI-DN-1 uses"},
		Connections: 12, Mode: takeover.Remove,
	})
}

func statusOf(snap *lb.Snapshot, c dataplane.Counters, a *cli.Agent) cli.StatusInput {
	if c.Drops != nil {
		c.Drops = map[string]uint64{"empty_pool": 3, "no_flow": 12, "a": 1, "b": 1, "c": 1, "d": 1}
	}
	return cli.StatusInput{
		Version: cli.Build{Version: "v0.1.0", Commit: "0123abc", Modified: true, Go: "go1.26.0", Platform: "linux/amd64", Kernel: "6.18.0"},
		PinPath: "/sys/fs/bpf/waggle", Agent: a,
		Pins: dataplane.Status{
			Generation: 3, Entries: 400, Limit: 1000, HalfOpen: 2,
			Maps: []dataplane.Fill{{Map: "flows", Used: 400, Limit: 1000}, {Map: "vips", Limit: 131072}},
		},
		Stats: cli.NewStats(snap, c, dataplane.Recount{Compared: 4}, []string{"empty_pool", "no_flow"}),
	}
}

func TestDocuments(t *testing.T) {
	snap, c := fixture(t)
	all := func(lb.ServiceID) bool { return true }
	docs := map[string]cli.Document{
		"services":       cli.NewServiceList(snap, c),
		"services-empty": cli.NewServiceList(nil, dataplane.Counters{}),
		"backends":       cli.NewBackendList(snap, c, all),
		"backends-web6":  cli.NewBackendList(snap, c, func(id lb.ServiceID) bool { return id == web6 }),
		"flows":          cli.NewFlowList(flows(), true),
		"flows-bare":     cli.NewFlowList([]dataplane.Flow{{Protocol: lb.TCP, Client: netip.MustParseAddrPort("198.51.100.7:40000"), VIP: netip.MustParseAddrPort("203.0.113.10:80"), Backend: netip.MustParseAddrPort("192.0.2.2:8080"), Service: web4, State: "ESTABLISHED", Expires: time.Minute, Bare: true}}, false),
		"status-ipvs":    cli.NewStatus(statusOf(snap, dataplane.Counters{}, cli.PinnedAgent(&dataplane.Status{Dataplane: "ipvs", Why: "virtual services of the kernel"}, "nobody listens at /run/waggle/waggle-1.sock"))),
		"clients":        cli.NewClientList(snap, clients(), false),
		"stats":          cli.NewStats(snap, c, dataplane.Recount{Compared: 4}, []string{"empty_pool", "unknown_port", "no_flow"}),
		"stats-quiet":    cli.NewStats(snap, dataplane.Counters{}, dataplane.Recount{Compared: 2, Skipped: 2}, []string{"empty_pool"}),
		"stats-wrong":    cli.NewStats(snap, dataplane.Counters{}, miscounted(), nil),
		"status":         cli.NewStatus(statusOf(snap, c, agent())),
		"status-dead":    cli.NewStatus(statusOf(snap, dataplane.Counters{}, cli.PinnedAgent(&dataplane.Status{Dataplane: "ebpf", Why: "nothing is attached"}, "nobody listens at /run/waggle/waggle-1.sock"))),
		"diff":           cli.NewDiff(differing(t)),
		"diff-none":      cli.NewDiff(snap, snap),
		"version":        cli.NewVersion(cli.Build{Version: "v0.1.0", Commit: "0123abc", Modified: true, Go: "go1.26.0", Platform: "linux/amd64", Kernel: "6.18.0"}),
	}
	for name, doc := range docs {
		for _, format := range cli.Formats() {
			t.Run(name+"/"+format, func(t *testing.T) {
				var got bytes.Buffer
				if err := cli.Write(&got, cli.Format(format), doc); err != nil {
					t.Fatal(err)
				}
				compareGolden(t, filepath.Join("testdata", name+"."+format), got.Bytes())
			})
		}
	}
}

func compareGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func masqueraded(f lb.Frontend) lb.Frontend {
	f.Masquerade = lb.MasqueradeAlways
	return f
}
