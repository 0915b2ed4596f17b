// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
)

// marks are the services by firewall mark in the samples, with their servers:
// waggle has none.
var marks = regexp.MustCompile(`(?m)^(FWM |-[Aa] -f |  -> 198\.19\.0\.[89]:0 ).*\n`)

// sample is what ipvsadm 1.31 printed on Linux 6.12, without the command line
// that heads it and without marks.
func sample(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if strings.HasPrefix(text, "$ ") {
		_, text, _ = strings.Cut(text, "\n")
	}
	return marks.ReplaceAllString(text, "")
}

// state is what the samples show, in the order of the kernel's table.
func state(t *testing.T) []ipvsadm.Service {
	t.Helper()
	services := []*lb.Service{
		{Scheduler: "rr", Frontends: at("198.18.255.10:2101", lb.TCP), Backends: backends("198.19.0.3:8080=0 198.19.0.2:8080=3 198.19.0.1:8080=1")},
		{
			Scheduler: "sh", SchedulerFlags: lb.SchedulerFallback | lb.SchedulerPort, Affinity: lb.Affinity{Timeout: 360 * time.Second, Prefix: 24},
			Frontends: at("198.18.255.10:2103", lb.TCP), Backends: backends("198.19.0.2:8080=1 198.19.0.10:8080=1"),
		},
		{Scheduler: "wrr", Frontends: at("198.18.255.10:2102", lb.UDP), Backends: backends("198.19.0.2:8080=5 198.19.0.1:8080=10")},
		{
			Scheduler: "mh", SchedulerFlags: lb.SchedulerPort, Affinity: lb.Affinity{Timeout: 100 * time.Second, Prefix: 64},
			Frontends: at("[fd00:f::10]:2104", lb.TCP), Backends: backends("[fd00:e::2]:8080=1 [fd00:e::1]:8080=1"),
		},
		{Scheduler: "rr", OnePacket: true, Frontends: at("198.18.255.10:2105", lb.UDP), Backends: backends("198.19.0.1:8080=1")},
	}
	services[2].Backends[1].Upper, services[2].Backends[1].Lower = 100, 50
	var order []lb.ServiceID
	for _, s := range services {
		s.ID = lb.ServiceID{Name: s.Frontends[0].String(), Family: lb.FamilyOf(s.Frontends[0].Addr.Addr())}
		order = append(order, s.ID)
	}
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatal(err)
	}
	out := ipvsadm.Services(snap)
	slices.SortFunc(out, func(a, b ipvsadm.Service) int { return slices.Index(order, a.ID) - slices.Index(order, b.ID) })
	return out
}

func at(addr string, p lb.Protocol) []lb.Frontend {
	return []lb.Frontend{{Addr: netip.MustParseAddrPort(addr), Protocol: p}}
}

// backends reads "192.0.2.1:80=5", an address and a weight.
func backends(s string) (out []lb.Backend) {
	for _, word := range strings.Fields(s) {
		addr, weight, _ := strings.Cut(word, "=")
		w := uint16(0)
		for _, digit := range weight {
			w = 10*w + uint16(digit-'0')
		}
		out = append(out, lb.Backend{Addr: netip.MustParseAddrPort(addr), Weight: w})
	}
	return out
}

// counted is the state with the counters of the samples.
func counted(t *testing.T) []ipvsadm.Service {
	t.Helper()
	out := state(t)
	type traffic = ipvsadm.Traffic
	for i, of := range [][]traffic{ // of a service, then of its servers
		{{5, 18, 12, 976, 744}, {0, 0, 0, 0, 0}, {3, 11, 8, 596, 488}, {2, 7, 4, 380, 256}},
		{{5, 15, 10, 820, 643}, {2, 6, 4, 328, 256}, {3, 9, 6, 492, 387}},
		{{5, 5, 5, 155, 220}, {2, 2, 2, 62, 88}, {3, 3, 3, 93, 132}},
		{{5, 15, 10, 1120, 845}, {3, 9, 6, 672, 507}, {2, 6, 4, 448, 338}},
		{{5, 5, 0, 155, 0}, {5, 5, 0, 155, 0}},
	} {
		out[i].Total = of[0]
		for j := range out[i].Servers {
			out[i].Servers[j].Total = of[j+1]
		}
	}
	for i, of := range [][]traffic{
		{{0, 1, 1, 64, 48}, {0, 0, 0, 0, 0}, {0, 1, 1, 39, 32}, {0, 0, 0, 25, 16}},
		{{0, 1, 1, 49, 38}, {0, 0, 0, 20, 16}, {0, 1, 0, 29, 23}},
		{{0, 0, 0, 9, 13}, {0, 0, 0, 4, 5}, {0, 0, 0, 5, 8}},
		{{0, 1, 1, 67, 50}, {0, 0, 0, 30, 22}, {0, 0, 0, 21, 16}},
		{{0, 0, 0, 9, 0}, {0, 0, 0, 7, 0}},
	} {
		out[i].Rate = of[0]
		for j := range out[i].Servers {
			out[i].Servers[j].Rate = of[j+1]
		}
	}
	for i, of := range [][][3]uint64{ // active, inactive, persistent
		{{0, 0, 0}, {2, 1, 0}, {1, 1, 0}}, {{2, 0, 2}, {3, 0, 3}}, {{0, 2, 0}, {0, 3, 0}}, {{3, 0, 3}, {2, 0, 2}}, {{0, 0, 0}},
	} {
		for j := range out[i].Servers {
			k := &out[i].Servers[j]
			k.Active, k.Inactive, k.Persistent = of[j][0], of[j][1], of[j][2]
		}
	}
	return out
}

func list(t *testing.T, services []ipvsadm.Service, o ipvsadm.ListOptions) string {
	t.Helper()
	var out strings.Builder
	if err := ipvsadm.List(&out, services, o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestListsAreThoseOfTheSamples(t *testing.T) {
	services := counted(t)
	zeroed := state(t)
	zeroed[0].Servers = append(zeroed[0].Servers, ipvsadm.Server{Addr: netip.MustParseAddrPort("198.19.0.51:8080"), Weight: 1})
	for _, c := range []struct {
		name     string
		services []ipvsadm.Service
		options  ipvsadm.ListOptions
	}{
		{"Ln.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize}},
		{"Ln-nosort.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, Unsorted: true}},
		{"L-one-service.txt", services[:1], ipvsadm.ListOptions{}},
		{"empty-Ln.txt", nil, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize}},
		{"stats.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.Statistics}},
		{"stats-exact.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.Statistics, Exact: true}},
		{"Ln-after-Z.txt", zeroed, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.Statistics}},
		{"rate.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.Rates}},
		{"thresholds.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.Thresholds}},
		{"persistent-conn.txt", services, ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize, View: ipvsadm.PersistentConn}},
	} {
		if diff := cmp.Diff(sample(t, c.name), list(t, c.services, c.options)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestTheOrderOfAListIsThatOfTheTool: signed differences, and names and numbers
// of all widths.
func TestTheOrderOfAListIsThatOfTheTool(t *testing.T) {
	snap, err := lb.NewSnapshot(parse(t, sample(t, "Sn-order.txt"))...)
	if err != nil {
		t.Fatal(err)
	}
	got := list(t, ipvsadm.Services(snap), ipvsadm.ListOptions{TableSize: ipvsadm.DefaultTableSize})
	if diff := cmp.Diff(sample(t, "Ln-order.txt"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLargeNumbersAreCutUnlessTheyAreExact(t *testing.T) {
	services := state(t)[:2]
	services[0].Servers, services[1].Servers = nil, nil
	services[0].Total = ipvsadm.Traffic{Connections: 99999999, InPackets: 100000000, OutPackets: 999999999, InBytes: 1000000000, OutBytes: 99999999999}
	services[1].Total = ipvsadm.Traffic{Connections: 100000000000, InPackets: 99999999999999, OutPackets: 100000000000000, InBytes: 18446744073709551615, OutBytes: 1}
	for exact, want := range map[bool]string{
		false: `TCP  198.18.255.10:2101           99999999  100000K  999999K    1000M   99999M
TCP  198.18.255.10:2103               100G   99999G     100T18446744T        1
`,
		true: `TCP  198.18.255.10:2101           99999999 100000000 999999999 1000000000 99999999999
TCP  198.18.255.10:2103           100000000000 99999999999999 100000000000000 18446744073709551615        1
`,
	} {
		_, got, _ := strings.Cut(list(t, services, ipvsadm.ListOptions{View: ipvsadm.Statistics, Exact: exact}), "RemoteAddress:Port\n")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("exact %v (-want +got):\n%s", exact, diff)
		}
	}
}

// TestNumbersOfAServiceStandOnce: what is counted over several frontends is at the
// first in each list, and what is not counted is at all.
func TestNumbersOfAServiceStandOnce(t *testing.T) {
	web := lb.ServiceID{Name: "web", Family: lb.IPv4}
	snap, err := lb.NewSnapshot(&lb.Service{
		ID: web, Scheduler: "wlc", Backends: backends("198.19.0.1:8080=3"),
		Frontends: slices.Concat(at("198.18.255.10:53", lb.UDP), at("198.18.255.10:53", lb.TCP), at("198.18.255.9:53", lb.TCP)),
	})
	if err != nil {
		t.Fatal(err)
	}
	services := ipvsadm.Services(snap)
	for i := range services {
		s := &services[i]
		s.Total, s.Rate = ipvsadm.Traffic{Connections: 5, InPackets: 6}, ipvsadm.Traffic{Connections: 1}
		k := &s.Servers[0]
		k.Active, k.Inactive, k.Persistent, k.Upper, k.Lower, k.Total, k.Rate = 1, 2, 3, 40, 30, s.Total, s.Rate
	}
	for view, want := range map[ipvsadm.View]string{
		ipvsadm.Connections: `TCP  198.18.255.9:53 wlc
  -> 198.19.0.1:8080              Masq    3      1          2         |
TCP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              Masq    3      -          -         |
UDP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              Masq    3      -          -         |
`,
		ipvsadm.Statistics: `TCP  198.18.255.9:53                     5        6        0        0        0
  -> 198.19.0.1:8080                     5        6        0        0        0
TCP  198.18.255.10:53                    -        -        -        -        -
  -> 198.19.0.1:8080                     -        -        -        -        -
UDP  198.18.255.10:53                    -        -        -        -        -
  -> 198.19.0.1:8080                     -        -        -        -        -
`,
		ipvsadm.Thresholds: `TCP  198.18.255.9:53 wlc
  -> 198.19.0.1:8080              40         30         1          2         |
TCP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              40         30         -          -         |
UDP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              40         30         -          -         |
`,
		ipvsadm.PersistentConn: `TCP  198.18.255.9:53 wlc
  -> 198.19.0.1:8080              3         3           1          2         |
TCP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              3         -           -          -         |
UDP  198.18.255.10:53 wlc
  -> 198.19.0.1:8080              3         -           -          -         |
`,
	} {
		_, got, _ := strings.Cut(list(t, services, ipvsadm.ListOptions{View: view}), "RemoteAddress:Port")
		_, got, _ = strings.Cut(got, "\n")
		if diff := cmp.Diff(strings.ReplaceAll(want, "|", ""), got); diff != "" {
			t.Errorf("view %d (-want +got):\n%s", view, diff)
		}
	}
}

// TestConnectionsAreThoseOfTheSamples reads the words of a sample and prints them.
func TestConnectionsAreThoseOfTheSamples(t *testing.T) {
	for _, name := range []string{"Lnc.txt", "Lnc-after-C.txt", "Lnc-persistent.txt", "Lnc-wide.txt"} {
		want := sample(t, name)
		var conns []ipvsadm.Connection
		for _, line := range strings.Split(strings.TrimSpace(want), "\n")[2:] {
			f := strings.Fields(line)
			p, err := lb.ParseProtocol(f[0])
			if err != nil {
				t.Fatal(err)
			}
			expires, err := time.ParseDuration(strings.Replace(f[1], ":", "m", 1) + "s")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, ipvsadm.Connection{
				Protocol: p, Expires: expires + time.Second/3, State: f[2],
				Source: netip.MustParseAddrPort(f[3]), Virtual: netip.MustParseAddrPort(f[4]), Destination: netip.MustParseAddrPort(f[5]),
			})
		}
		var got strings.Builder
		if err := ipvsadm.ListConnections(&got, slices.Values(conns), name == "Lnc-persistent.txt"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
