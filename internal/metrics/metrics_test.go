// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

var update = flag.Bool("update", false, "write the golden files and docs/metrics.md anew")

// world is a fake dataplane with what only a real one knows.
type world struct {
	*fake.Dataplane
	counters dataplane.Counters
	status   dataplane.Status
	errs     map[string]error
}

func (w *world) Read() (*lb.Snapshot, error) {
	if err := w.errs["Read"]; err != nil {
		return nil, err
	}
	return w.Dataplane.Read()
}

func (w *world) Counters() (dataplane.Counters, error) { return w.counters, w.errs["Counters"] }

func (w *world) Status() (dataplane.Status, error) { return w.status, w.errs["Status"] }

var web = lb.ServiceID{Name: "web", Family: lb.IPv4}

func backend(id lb.ServiceID, addr string) lb.BackendID {
	return lb.BackendID{Service: id, Addr: netip.MustParseAddrPort(addr)}
}

// newWorld has a service with a backend of each state, one without any, and one
// that is gone and has flows.
func newWorld(t *testing.T) (*world, Options) {
	t.Helper()
	vip := func(s string) []lb.Frontend {
		return []lb.Frontend{{Addr: netip.MustParseAddrPort(s), Protocol: lb.TCP}}
	}
	snap, err := lb.NewSnapshot(
		&lb.Service{ID: web, Scheduler: "wrr", Frontends: vip("203.0.113.10:80"), Backends: []lb.Backend{
			{Addr: netip.MustParseAddrPort("192.0.2.2:8080"), Weight: 5, Upper: 3},
			{Addr: netip.MustParseAddrPort("192.0.2.3:8080")},
			{Addr: netip.MustParseAddrPort("192.0.2.4:8080"), Weight: 1, Unhealthy: true},
		}},
		&lb.Service{ID: lb.ServiceID{Name: "a \"name\"\n\xff", Family: lb.IPv6}, Scheduler: "rr", Frontends: vip("[2001:db8::10]:80")},
	)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Dataplane: fake.New(fake.Options{}), errs: make(map[string]error)}
	if rep := w.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		t.Fatalf("apply: %+v", rep)
	}
	w.counters = dataplane.Counters{
		Backends: map[lb.BackendID]dataplane.BackendCounters{
			backend(web, "192.0.2.2:8080"):                                             {Active: 3, Inactive: 1, Overloaded: true, Connections: 40, InPackets: 400, InBytes: 40000, OutPackets: 600, OutBytes: 900000},
			backend(web, "192.0.2.3:8080"):                                             {},
			backend(web, "192.0.2.4:8080"):                                             {},
			backend(web, "192.0.2.9:8080"):                                             {Active: 1, Connections: 2},
			backend(lb.ServiceID{Name: "gone", Family: lb.IPv6}, "[2001:db8:1::2]:53"): {Inactive: 7, Connections: 9, InPackets: 9, InBytes: 720},
		},
		Drops: map[string]uint64{"empty_pool": 12, "from_the_future": 1},
	}
	w.status = dataplane.Status{
		Generation: 3, Entries: 24, Limit: 524288, HalfOpen: 2,
		Mended: map[string]uint64{"program": 1, "pin": 0}, Followed: map[string]uint64{"device": 4}, SocketsEnded: 5,
		Devices: []dataplane.Device{{Name: "lo", XDP: "off"}, {Name: "eth0", XDP: "native"}, {Name: "eth1", XDP: "native"}, {Name: "new"}},
		Broken:  []string{"a", "b"},
		Audit:   dataplane.Recount{Compared: 4, Skipped: 1, Difference: 6, Took: 170 * time.Millisecond}, Audited: time.UnixMilli(1_700_000_000_250),
	}
	loop := control.Status{
		Sources: []control.SourceStatus{{Name: "file a"}, {Name: "file b", Delivered: true, Services: 2}}, Applies: 7, Incomplete: 2, Applied: time.UnixMilli(1_700_000_001_000), Took: 1500 * time.Microsecond,
		Refused: map[lb.ServiceID]error{web: errors.New("no")},
		Report:  dataplane.Report{Failed: map[lb.ServiceID]error{web: errors.New("no"), {Name: "gone", Family: lb.IPv4}: errors.New("no")}},
	}
	return w, Options{
		Dataplane: w, Loop: func() control.Status { return loop }, Reasons: []string{"empty_pool", "no_flow"},
		Build: Build{Version: "v0.1.0", Revision: "0123abc", Go: "go1.26.0"}, Log: slog.New(slog.DiscardHandler), Mode: "ebpf", Reason: "probe",
	}
}

func newCollector(opts Options, most int) *collector {
	return &collector{opts: opts, most: most, failed: &failures{log: opts.Log}}
}

// gathered is what a scrape shows, by a registry that mistrusts the collector.
func gathered(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestAScrape(t *testing.T) {
	_, opts := newWorld(t)
	golden(t, "testdata/all.txt", gathered(t, newCollector(opts, 5)))
	golden(t, "testdata/without-backends.txt", gathered(t, newCollector(opts, 0)))
	if one, none := gathered(t, newCollector(opts, 4)), gathered(t, newCollector(opts, 0)); one != none {
		t.Errorf("one backend too many (-none +got):\n%s", cmp.Diff(none, one))
	}
}

func TestEveryMetricIsThereAndIsNamedAsPrometheusWants(t *testing.T) {
	_, opts := newWorld(t)
	c := newCollector(opts, maxBackends)
	text := gathered(t, c)
	for _, d := range definitions() {
		if !strings.Contains(text, "\n# TYPE "+d.name+" ") && !strings.HasPrefix(text, "# TYPE "+d.name+" ") {
			t.Errorf("%s is defined, and not sent", d.name)
		}
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestWhatIsNotKnownYetIsNotShown(t *testing.T) {
	w := &world{Dataplane: fake.New(fake.Options{}), errs: make(map[string]error)}
	text := gathered(t, newCollector(Options{Dataplane: w, Loop: func() control.Status { return control.Status{} }}, maxBackends))
	for _, name := range []string{"waggle_audit_", "waggle_apply_"} {
		if strings.Contains(text, name) {
			t.Errorf("there is a %s before there was one:\n%s", name, text)
		}
	}
}

func TestWhatCannotBeReadIsCountedAndLoggedOnce(t *testing.T) {
	for _, method := range []string{"Read", "Counters", "Status"} {
		w, opts := newWorld(t)
		var log bytes.Buffer
		opts.Log = slog.New(slog.NewTextHandler(&log, nil))
		w.errs[method] = errors.New("map is broken")
		c := newCollector(opts, maxBackends)
		for n := 1; n <= 2; n++ {
			text := gathered(t, c)
			for _, want := range []string{fmt.Sprintf("waggle_collect_errors_total %d\n", n), "waggle_applies_total{", "waggle_build_info{"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s fails, scrape %d: no %q in\n%s", method, n, want, text)
				}
			}
		}
		if n := strings.Count(log.String(), "map is broken"); n != 1 {
			t.Errorf("%s fails, which is logged %d times:\n%s", method, n, &log)
		}
	}
}

func TestTheHandlerServesWithAndWithoutBackends(t *testing.T) {
	_, opts := newWorld(t)
	server := httptest.NewServer(NewHandler(opts))
	defer server.Close()
	const absent = "\x00"
	for _, tc := range []struct {
		path     string
		status   int
		has, not string
	}{
		{"/metrics", http.StatusOK, "waggle_backend_weight{", absent},
		{"/metrics?backends=true", http.StatusOK, "waggle_backend_weight{", absent},
		{"/metrics?backends=false", http.StatusOK, "waggle_service_backends{", "waggle_backend_"},
		{"/metrics", http.StatusOK, "\ngo_goroutines ", absent},
		{"/metrics", http.StatusOK, "\nprocess_open_fds ", absent},
		{"/metrics?backends=no", http.StatusBadRequest, `backends="no": write true or false`, "waggle_"},
		{"/", http.StatusNotFound, "", "waggle_"},
	} {
		res, err := http.Get(server.URL + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if text := string(b); res.StatusCode != tc.status || !strings.Contains(text, tc.has) || strings.Contains(text, tc.not) {
			t.Errorf("%s: status %d, want %d, with %q, without %q; it begins with %.200s", tc.path, res.StatusCode, tc.status, tc.has, tc.not, text)
		}
	}
}

// The table of docs/metrics.md is made of the definitions.
func TestTheDocsListTheMetrics(t *testing.T) {
	const file, end = "../../docs/metrics.md", "<!-- end -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	defined := make(map[string]bool)
	for what, all := range map[string][]*definition{"metrics": definitions(), "kube-proxy": kubeDefinitions()} {
		begin := "<!-- " + what + ": made by go test ./internal/metrics -update -->\n"
		head, rest, ok := strings.Cut(text, begin)
		_, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s lacks %q or %q", file, begin, end)
		}
		text = head + begin + table(all) + end + tail
		for _, d := range all {
			defined[d.name] = true
		}
	}
	golden(t, file, text)
	for _, name := range regexp.MustCompile(`\b(waggle|kubeproxy)_\w+`).FindAllString(text, -1) {
		if !defined[strings.TrimSuffix(name, "_bucket")] {
			t.Errorf("%s speaks of %s, which is not there", file, name)
		}
	}
}

func table(all []*definition) string {
	var out strings.Builder
	out.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	for _, d := range all {
		kind := strings.ToLower(d.kind.ToDTO().String())
		if d.buckets != nil {
			kind = "histogram"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", d.name, kind, strings.Join(d.labels, " "), d.help)
	}
	return out.String()
}

// BenchmarkScrape is of 10,000 services with 10 backends each.
func BenchmarkScrape(b *testing.B) {
	w := &world{Dataplane: fake.New(fake.Options{})}
	w.counters.Backends = make(map[lb.BackendID]dataplane.BackendCounters)
	var all []*lb.Service
	for n := range 10_000 {
		svc := &lb.Service{ID: lb.ServiceID{Name: fmt.Sprintf("default/service-%d:http/TCP", n), Family: lb.IPv4}, Scheduler: "rr"}
		for i := range 10 {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(i)}), 8080)
			svc.Backends = append(svc.Backends, lb.Backend{Addr: addr, Weight: 1})
			w.counters.Backends[lb.BackendID{Service: svc.ID, Addr: addr}] = dataplane.BackendCounters{Connections: uint64(n)}
		}
		all = append(all, svc)
	}
	snap, err := lb.NewSnapshot(all...)
	if err != nil {
		b.Fatal(err)
	}
	if rep := w.Apply(snap); rep.Err != nil {
		b.Fatal(rep.Err)
	}
	h := NewHandler(Options{Dataplane: w, Loop: func() control.Status { return control.Status{} }, Log: slog.New(slog.DiscardHandler)})
	for _, path := range []string{"/metrics?backends=true", "/metrics"} {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRecorder()
				h.ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
				b.ReportMetric(float64(r.Body.Len())/1e6, "MB")
			}
		})
	}
}
