// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// marks are what the samples have of services by firewall mark: waggle has none.
var marks = regexp.MustCompile(`(?m)^(FWM |  -> 198\.19\.0\.[89]:0 ).*\n`)

// sample is what ipvsadm 1.31 printed of the state that newSampleReader has.
func sample(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", "ipvsadm", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if strings.HasPrefix(text, "$ ") {
		_, text, _ = strings.Cut(text, "\n")
	}
	return marks.ReplaceAllString(text, "")
}

// sampleReader collects a state.
type sampleReader struct {
	*fakeReader
	t        *testing.T
	services []*lb.Service
}

// add adds a service with one frontend, and its backends, the newest first,
// with what they count.
func (r *sampleReader) add(svc lb.Service, at string, p lb.Protocol, backends ...sampleBackend) {
	f := lb.Frontend{Addr: netip.MustParseAddrPort(at), Protocol: p}
	svc.ID = lb.ServiceID{Name: f.String(), Family: lb.FamilyOf(f.Addr.Addr())}
	svc.Frontends = []lb.Frontend{f}
	for _, b := range backends {
		addr := netip.MustParseAddrPort(b.addr)
		svc.Backends = append(svc.Backends, lb.Backend{Addr: addr, Weight: b.weight, Upper: b.upper, Lower: b.lower})
		r.counters.Backends[lb.BackendID{Service: svc.ID, Addr: addr}] = b.BackendCounters
	}
	r.services = append(r.services, &svc)
}

type sampleBackend struct {
	addr         string
	weight       uint16
	upper, lower uint32
	dataplane.BackendCounters
}

// counted is in the order of ipvsadm's columns.
func counted(active, inactive, conns, inPackets, outPackets, inBytes, outBytes uint64) dataplane.BackendCounters {
	return dataplane.BackendCounters{
		Active: active, Inactive: inactive, Connections: conns,
		InPackets: inPackets, OutPackets: outPackets, InBytes: inBytes, OutBytes: outBytes,
	}
}

func newSampleReader(t *testing.T) *fakeReader {
	t.Helper()
	r := &sampleReader{t: t, fakeReader: &fakeReader{
		counters: dataplane.Counters{Backends: make(map[lb.BackendID]dataplane.BackendCounters)}, errs: map[string]error{},
	}}
	r.add(lb.Service{Scheduler: "rr"}, "198.18.255.10:2101", lb.TCP,
		sampleBackend{addr: "198.19.0.3:8080"},
		sampleBackend{"198.19.0.2:8080", 3, 0, 0, counted(2, 1, 3, 11, 8, 596, 488)},
		sampleBackend{"198.19.0.1:8080", 1, 0, 0, counted(1, 1, 2, 7, 4, 380, 256)})
	r.add(lb.Service{
		Scheduler: "sh", SchedulerFlags: lb.SchedulerFallback | lb.SchedulerPort, Affinity: lb.Affinity{Timeout: 6 * time.Minute, Prefix: 24},
	}, "198.18.255.10:2103", lb.TCP,
		sampleBackend{"198.19.0.2:8080", 1, 0, 0, counted(2, 0, 2, 6, 4, 328, 256)},
		sampleBackend{"198.19.0.10:8080", 1, 0, 0, counted(3, 0, 3, 9, 6, 492, 387)})
	r.add(lb.Service{Scheduler: "wrr"}, "198.18.255.10:2102", lb.UDP,
		sampleBackend{"198.19.0.2:8080", 5, 0, 0, counted(0, 2, 2, 2, 2, 62, 88)},
		sampleBackend{"198.19.0.1:8080", 10, 100, 50, counted(0, 3, 3, 3, 3, 93, 132)})
	r.add(lb.Service{Scheduler: "rr", OnePacket: true}, "198.18.255.10:2105", lb.UDP,
		sampleBackend{"198.19.0.1:8080", 1, 0, 0, counted(0, 0, 5, 5, 0, 155, 0)})
	r.add(lb.Service{Scheduler: "mh", SchedulerFlags: lb.SchedulerPort, Affinity: lb.Affinity{Timeout: 100 * time.Second, Prefix: 64}},
		"[fd00:f::10]:2104", lb.TCP,
		sampleBackend{"[fd00:e::2]:8080", 1, 0, 0, counted(3, 0, 3, 9, 6, 672, 507)},
		sampleBackend{"[fd00:e::1]:8080", 1, 0, 0, counted(2, 0, 2, 6, 4, 448, 338)})
	snap, err := lb.NewSnapshot(r.services...)
	if err != nil {
		t.Fatal(err)
	}
	r.snap = snap
	r.connections(sample(t, "Lnc.txt"))
	return r.fakeReader
}

// connections makes flows and clients of ipvsadm's text.
func (r *sampleReader) connections(text string) {
	for _, line := range strings.Split(strings.TrimSpace(text), "\n")[2:] {
		w := strings.Fields(line)
		p, err := lb.ParseProtocol(w[0])
		if err != nil {
			r.t.Fatal(err)
		}
		expires, err := time.ParseDuration(strings.Replace(w[1], ":", "m", 1) + "s")
		if err != nil {
			r.t.Fatal(err)
		}
		source, vip, server := netip.MustParseAddrPort(w[3]), netip.MustParseAddrPort(w[4]), netip.MustParseAddrPort(w[5])
		id := lb.ServiceID{}
		if svc := r.snap.Lookup(lb.Frontend{Addr: vip, Protocol: p}); svc != nil {
			id = svc.ID
		}
		if source.Port() == 0 {
			r.clients = append(r.clients, dataplane.Client{
				Service: id, Client: source.Addr(), Backend: server, Assured: w[2] == "ASSURED", Expires: expires,
			})
			continue
		}
		r.flows = append(r.flows, dataplane.Flow{
			Protocol: p, Client: source, VIP: vip, Backend: server, Service: id, State: w[2], Expires: expires,
		})
	}
}

// TestShapesAreThoseOfTheTool compares with what ipvsadm printed of the same
// state, byte for byte; nothing is noted, as nothing differs.
func TestShapesAreThoseOfTheTool(t *testing.T) {
	for _, c := range []struct{ name, args string }{
		{"Ln.txt", "services -o ipvsadm"},
		{"L-one-service.txt", "services -o ipvsadm -t 198.18.255.10:2101"},
		{"stats.txt", "services -o ipvsadm --stats"},
		{"stats-exact.txt", "services -o ipvsadm --stats --exact"},
		{"thresholds.txt", "services -o ipvsadm --thresholds"},
		{"persistent-conn.txt", "services -o ipvsadm --persistent-conn"},
	} {
		e := newTestEnv(newSampleReader(t))
		if code := execute(t.Context(), &e.env, strings.Fields(c.args)); code != exitOK || e.err.Len() > 0 {
			t.Errorf("%s: exit %d, stderr %q", c.args, code, e.err.String())
		}
		if diff := cmp.Diff(sample(t, c.name), e.out.String()); diff != "" {
			t.Errorf("%s (-%s +got):\n%s", c.args, c.name, diff)
		}
	}
}

// TestConnectionsAreThoseOfTheTool: their order is the kernel table's there.
func TestConnectionsAreThoseOfTheTool(t *testing.T) {
	for _, c := range []struct{ name, args string }{
		{"Lnc.txt", "flows -o ipvsadm"},
		{"Lnc-persistent.txt", "flows -o ipvsadm --persistent-conn"},
	} {
		r := newSampleReader(t)
		r.flows, r.clients = nil, nil
		(&sampleReader{fakeReader: r, t: t}).connections(sample(t, c.name))
		e := newTestEnv(r)
		if code := execute(t.Context(), &e.env, strings.Fields(c.args)); code != exitOK || e.err.Len() > 0 {
			t.Errorf("%s: exit %d, stderr %q", c.args, code, e.err.String())
		}
		sorted := func(s string) string {
			lines := strings.SplitAfter(s, "\n")
			slices.Sort(lines[2:])
			return strings.Join(lines, "")
		}
		if diff := cmp.Diff(sorted(sample(t, c.name)), sorted(e.out.String())); diff != "" {
			t.Errorf("%s (-%s +got):\n%s", c.args, c.name, diff)
		}
	}
}

// newOddReader has what ipvsadm's form cannot say: several frontends and none,
// backends that are unhealthy or have left, and clients that lead nowhere.
func newOddReader(t *testing.T) *fakeReader {
	t.Helper()
	addr := netip.MustParseAddrPort
	web, dns, idle, gone := lb.ServiceID{Name: "web", Family: lb.IPv4}, lb.ServiceID{Name: "dns", Family: lb.IPv6},
		lb.ServiceID{Name: "idle", Family: lb.IPv4}, lb.ServiceID{Name: "gone", Family: lb.IPv4}
	one, two, left := addr("192.0.2.2:8080"), addr("192.0.2.10:8080"), addr("192.0.2.4:8080")
	snap, err := lb.NewSnapshot(
		&lb.Service{
			ID: web, Scheduler: "wlc", Affinity: lb.Affinity{Timeout: 5 * time.Minute, Prefix: 24},
			Frontends: []lb.Frontend{{Addr: addr("203.0.113.10:443"), Protocol: lb.TCP}, {Addr: addr("203.0.113.10:80"), Protocol: lb.TCP}},
			Backends:  []lb.Backend{{Addr: two, Weight: 5, Unhealthy: true}, {Addr: one, Weight: 5, Upper: 3, Lower: 1}},
		},
		&lb.Service{
			ID: dns, Scheduler: "rr", Frontends: []lb.Frontend{{Addr: addr("[2001:db8::53]:53"), Protocol: lb.UDP}},
			Backends: []lb.Backend{{Addr: addr("[2001:db8:1::2]:53"), Weight: 1}},
		},
		&lb.Service{ID: idle, Scheduler: "rr", Affinity: lb.Affinity{Timeout: time.Minute, Prefix: 32}},
	)
	if err != nil {
		t.Fatal(err)
	}
	client := func(id lb.ServiceID, at string, to netip.AddrPort) dataplane.Client {
		return dataplane.Client{Service: id, Client: netip.MustParseAddr(at), Backend: to, Expires: 299900 * time.Millisecond}
	}
	flow := func(id lb.ServiceID, p lb.Protocol, from, vip string, to netip.AddrPort) dataplane.Flow {
		return dataplane.Flow{Protocol: p, Client: addr(from), VIP: addr(vip), Backend: to, Service: id, State: "UDP", Expires: 5 * time.Minute}
	}
	return &fakeReader{
		snap: snap,
		counters: dataplane.Counters{Backends: map[lb.BackendID]dataplane.BackendCounters{
			{Service: web, Addr: one}:                        {Active: 2, Inactive: 1, Overloaded: true, Connections: 9, InPackets: 90, InBytes: 9000, OutPackets: 80, OutBytes: 123456789},
			{Service: web, Addr: left}:                       {Active: 1, Connections: 1, InPackets: 10, InBytes: 1000},
			{Service: gone, Addr: one}:                       {Inactive: 1},
			{Service: gone, Addr: two}:                       {Connections: 7},
			{Service: dns, Addr: addr("[2001:db8:1::2]:53")}: {Inactive: 4, Connections: 4, InPackets: 4, InBytes: 400},
		}},
		flows: []dataplane.Flow{
			flow(dns, lb.UDP, "[2001:db8:9::1]:50000", "[2001:db8::53]:53", addr("[2001:db8:1::2]:53")),
			flow(lb.ServiceID{}, lb.TCP, "198.51.100.8:50001", "192.0.2.2:8080", one), // its own
			flow(web, lb.SCTP, "198.51.100.8:50001", "203.0.113.10:80", left),
		},
		clients: []dataplane.Client{
			client(web, "198.51.100.0", one), client(web, "198.51.99.0", one),
			client(web, "198.51.100.8", two), // of a former mask
			client(dns, "2001:db8:9::1", addr("[2001:db8:1::2]:53")), client(gone, "198.51.100.8", two), client(idle, "198.51.100.8", one),
		},
		errs: map[string]error{},
	}
}

func TestWhatTheShapesCannotSayIsNoted(t *testing.T) {
	for _, tt := range []struct{ name, args string }{
		{"ipvsadm", "services -o ipvsadm"},
		{"ipvsadm-nosort", "services -o ipvsadm --nosort"},
		{"ipvsadm-stats", "services -o ipvsadm --stats"},
		{"ipvsadm-stats-exact", "services -o ipvsadm --stats --exact"},
		{"ipvsadm-thresholds", "services -o ipvsadm --thresholds"},
		{"ipvsadm-persistent", "services -o ipvsadm --persistent-conn"},
		{"ipvsadm-second-frontend", "services -o ipvsadm -t 203.0.113.10:443"},
		{"ipvsadm-udp", "services -o ipvsadm --stats -u [2001:db8::53]:53"},
		{"ipvsadm-no-such-service", "services -o ipvsadm -u 203.0.113.10:80"},
		{"ipvsadm-connections", "flows -o ipvsadm"},
		{"ipvsadm-connections-limit", "flows -o ipvsadm --limit 2"},
		{"ipvsadm-connections-service", "flows -o ipvsadm --service web --persistent-conn"},
		{"clients", "clients"},
		{"clients-limit", "clients --service web --limit 1 -o yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := newTestEnv(newOddReader(t)).transcript(t, strings.Fields(tt.args)...)
			compareGolden(t, filepath.Join("testdata", "verbs", tt.name+".txt"), got)
		})
	}
}

func TestAnEmptyListSaysSo(t *testing.T) {
	e := newTestEnv(&fakeReader{errs: map[string]error{}})
	got := e.transcript(t, "services", "-o", "ipvsadm")
	want := "$ waggle services -o ipvsadm\n" + sample(t, "empty-Ln.txt") + "-- stderr, exit 0 --\nno services at /sys/fs/bpf/waggle\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRatesAreTheMeanBetweenTwoReadings: a backend that has less than before
// began anew, one that is new had nothing before, and the row of a service is
// rounded by itself.
func TestRatesAreTheMeanBetweenTwoReadings(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		tty        bool
	}{{"ipvsadm-rate", "services -o ipvsadm --rate", false}, {"ipvsadm-rate-interval", "services -o ipvsadm --rate --interval 500ms -t 203.0.113.10:80", true}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newOddReader(t)
			e := newTestEnv(r)
			e.tty = tt.tty
			web, dns := lb.ServiceID{Name: "web", Family: lb.IPv4}, lb.ServiceID{Name: "dns", Family: lb.IPv6}
			e.meanwhile = func() {
				r.counters.Backends = maps.Clone(r.counters.Backends)
				for addr, c := range map[string]dataplane.BackendCounters{
					"192.0.2.2:8080":  {Connections: 9 + 5, InPackets: 90 + 9, InBytes: 9000 + 3001, OutPackets: 80, OutBytes: 123456789 + 1},
					"192.0.2.4:8080":  {Connections: 1 + 2, InPackets: 10 + 2, InBytes: 1000},
					"192.0.2.10:8080": {Connections: 1, InPackets: 4, InBytes: 3, OutPackets: 2, OutBytes: 1},
				} {
					r.counters.Backends[lb.BackendID{Service: web, Addr: netip.MustParseAddrPort(addr)}] = c
				}
				r.counters.Backends[lb.BackendID{Service: dns, Addr: netip.MustParseAddrPort("[2001:db8:1::2]:53")}] = dataplane.BackendCounters{Connections: 2, InPackets: 2, InBytes: 800}
			}
			compareGolden(t, filepath.Join("testdata", "verbs", tt.name+".txt"), e.transcript(t, strings.Fields(tt.args)...))
		})
	}
}

func TestRatesEndWithTheirReadings(t *testing.T) {
	for _, broken := range []string{"Counters", "Read", "Close"} {
		r := newOddReader(t)
		e := newTestEnv(r)
		e.meanwhile = func() { r.errs[broken] = errors.New("map is broken") }
		if got := e.transcript(t, "services", "-o", "ipvsadm", "--rate"); !strings.Contains(got, "map is broken") || !strings.Contains(got, "exit 1") || e.out.Len() > 0 {
			t.Errorf("with a broken %s at the second reading:\n%s", broken, got)
		}
	}
}

// TestOptionsOfTheToolAreRefused where they make no sense, with what to write.
func TestOptionsOfTheToolAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"services --stats":                                "--stats is an option of ipvsadm: write -o ipvsadm too",
		"services -o wide --rate --exact":                 "--rate is an option of ipvsadm: write -o ipvsadm too",
		"services -o json --nosort":                       "--nosort is an option of ipvsadm: write -o ipvsadm too",
		"services -t 203.0.113.10:80":                     "--tcp-service is an option of ipvsadm: write -o ipvsadm too",
		"services --interval 3s":                          "--interval is an option of ipvsadm: write -o ipvsadm too",
		"services -o ipvsadm --stats --rate":              "both --stats and --rate: write one of them",
		"services -o ipvsadm --thresholds --rate":         "both --rate and --thresholds: write one of them",
		"services -o ipvsadm --exact":                     "--exact is for numbers that are cut otherwise: write --stats or --rate too",
		"services -o ipvsadm --thresholds --exact":        "--exact is for numbers that are cut otherwise: write --stats or --rate too",
		"services -o ipvsadm --stats --interval 3s":       "--interval is how long --rate counts: write --rate too",
		"services -o ipvsadm --rate --interval 1ms":       "--interval 1ms: write 100ms or more, such as 2s",
		"services -o ipvsadm -t 1.2.3.4:80 -u 1.2.3.4:80": "both --tcp-service and --udp-service: write one of them",
		"services -o ipvsadm --sctp-service 203.0.113.10": `--sctp-service "203.0.113.10": write an IP address and a port, such as 203.0.113.10:80 or [2001:db8::10]:80`,
		"services -o ipvsad":                              `invalid argument "ipvsad" for "-o, --output" flag: unknown output format: write one of table, wide, json, yaml, ipvsadm`,
		"backends -o ipvsadm":                             `invalid argument "ipvsadm" for "-o, --output" flag: unknown output format: write one of table, wide, json, yaml`,
		"flows --persistent-conn":                         "--persistent-conn is an option of ipvsadm: write -o ipvsadm too",
		"flows -o ipvsadm --limit -1":                     "--limit -1: write 0 for all, or how many",
		"clients --limit -1":                              "--limit -1: write 0 for all, or how many",
	} {
		r := newOddReader(t)
		e := newTestEnv(r)
		code := execute(t.Context(), &e.env, strings.Fields(args))
		got, _, _ := strings.Cut(e.err.String(), "\n")
		if code != exitUsage || got != "waggle: "+want || e.out.Len() > 0 || r.closed > 0 {
			t.Errorf("%s: exit %d, closed %d times, stdout %q, stderr %q; want\n%s", args, code, r.closed, e.out.String(), got, want)
		}
	}
}
