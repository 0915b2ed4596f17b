// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

func TestAxis(t *testing.T) {
	for _, tt := range []struct{ most, step, end float64 }{
		{0, 1, 1}, {1, 0.2, 1}, {1.3, 0.2, 1.4}, {2, 0.5, 2}, {3.9, 0.5, 4}, {4, 1, 4}, {9.1, 1, 10}, {10, 2, 10}, {5787, 1000, 6000}, {0.012, 0.002, 0.012},
	} {
		step, end := axis(tt.most)
		if !near(step, tt.step) || !near(end, tt.end) {
			t.Errorf("to %v: steps of %v to %v, want %v to %v", tt.most, step, end, tt.step, tt.end)
		}
	}
}

func near(a, b float64) bool { return a > b*0.999999 && a < b*1.000001 }

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.456: "0.456", 2.5: "2.5", 99.96: "100", 123.4: "123", 9999: "9999", 12345: "12.3k", 1234567: "1.23M"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// element is what is drawn.
type element struct {
	XMLName xml.Name
	X       float64 `xml:"x,attr"`
	Width   float64 `xml:"width,attr"`
	Fill    string  `xml:"fill,attr"`
	Text    string  `xml:",chardata"`
}

func drawn(t *testing.T, c *chart) (all []element) {
	t.Helper()
	var b bytes.Buffer
	if err := c.writeTo(&b); err != nil {
		t.Fatal(err)
	}
	var svg struct {
		Elements []element `xml:",any"`
	}
	if err := xml.Unmarshal(b.Bytes(), &svg); err != nil {
		t.Fatal(err)
	}
	return svg.Elements
}

func TestBarsAreAsLongAsTheirValues(t *testing.T) {
	c := &chart{title: "a < b & c", unit: "µs", series: []string{"one", "two", "unused"}, groups: []group{
		{"first", []bar{{"one", 5, 4, 10}, {"two", 10, 10, 10}}}, {"second", []bar{{"two", 2.5, 2, 3}}},
	}}
	var bars []element
	var words []string
	for _, e := range drawn(t, c) {
		if e.XMLName.Local == "rect" && e.X == labelRoom && e.Width > 10 {
			bars = append(bars, e)
		}
		if e.XMLName.Local == "text" {
			words = append(words, e.Text)
		}
	}
	var lengths []float64
	for _, b := range bars {
		lengths = append(lengths, b.Width/plotRoom*10) // the axis ends at 10
	}
	if d := cmp.Diff([]float64{5, 10, 2.5}, lengths); d != "" {
		t.Error(d)
	}
	if bars[0].Fill == bars[1].Fill || bars[1].Fill != bars[2].Fill {
		t.Errorf("colours %v", bars)
	}
	for _, want := range []string{"a < b & c", "µs", "one", "two", "first", "second", "0", "10", "2.5"} {
		if !slices.Contains(words, want) {
			t.Errorf("no %q among %q", want, words)
		}
	}
	if slices.Contains(words, "unused") {
		t.Error("the legend names what is not drawn")
	}
}

func TestAWriterThatFails(t *testing.T) {
	r, w := io.Pipe()
	gone := errors.New("gone")
	r.CloseWithError(gone)
	if err := (&chart{}).writeTo(w); !errors.Is(err, gone) {
		t.Errorf("%v, want %v", err, gone)
	}
}

// run is one with a place, two numbers of services and three paths.
func run() *result.File {
	f := &result.File{
		Date: "2026-01-02T03:04:05Z", Kernel: "6.18", CPUs: 2, Version: "v1", Seconds: 1, Repeats: 1, Rivals: []string{"nftables", "iptables"},
		Metrics: []result.Metric{{Name: "short connections", Unit: "1/s"}, {Name: "latency p50", Unit: "µs", LessIsBetter: true}},
	}
	for _, n := range []int{1, 10000} {
		for i, path := range []string{"waggle tc", "nftables", "iptables"} {
			for _, m := range f.Metrics {
				f.Samples = append(f.Samples, result.Sample{Services: n, From: result.FromClient, Path: path, Metric: m.Name, Value: float64(40 - 10*i)})
			}
		}
	}
	return f
}

func TestNetworkCharts(t *testing.T) {
	charts := networkCharts(run())
	names := slices.Sorted(maps.Keys(charts))
	if d := cmp.Diff([]string{"network-latency-p50", "network-short-connections", "network-short-connections-ratio"}, names); d != "" {
		t.Fatal(d)
	}
	want := []group{
		{"client elsewhere, 1 service", []bar{{"waggle tc", 4. / 3, 4. / 3, 4. / 3}}},
		{"client elsewhere, 10,000 services", []bar{{"waggle tc", 4. / 3, 4. / 3, 4. / 3}}},
	}
	if d := cmp.Diff(want, charts["network-short-connections-ratio"].groups, cmp.AllowUnexported(group{}, bar{})); d != "" {
		t.Error(d)
	}
	if g := charts["network-latency-p50"].groups[1].bars; len(g) != 3 || g[2] != (bar{"iptables", 20, 20, 20}) {
		t.Errorf("bars %v", g)
	}
}

func TestNetworkTable(t *testing.T) {
	table := networkTable(run())
	for _, want := range []string{
		"| | | waggle tc | nftables | iptables |\n|---|---|---|---|---|\n",
		"| client elsewhere, 1 service | short connections, 1/s | 40 (1.33, 1.33-1.33) | 30 (1.00, 1.00-1.00) | 20 (0.67, 0.67-0.67) |\n",
		"| client elsewhere, 10,000 services | latency p50, µs | 40 (0.50, 0.50-0.50) | 30 (0.67, 0.67-0.67) | 20 (1.00, 1.00-1.00) |\n",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}

var packets = []packetRow{
	{Name: "floor tc", Min: 19, Median: 20, Spread: 3.4},
	{Name: "established", Flows: 1, Fill: 50, Min: 79.5, Median: 80, Net: 50},
	{Name: "not ours, 1000 services", Flows: 65536, Median: 60, Net: 10},
	{Name: "forward, each flow to another service", Flows: 65536, Median: 70, Net: 20},
	{Name: "new TCP v4 (rr, 10 backends)", Flows: 65536, Median: 900, Net: 850},
}

func TestPacketCharts(t *testing.T) {
	charts := packetCharts(packets)
	if len(charts) != 3 {
		t.Errorf("%d charts", len(charts))
	}
	for name, want := range map[string][]group{
		"packets":    {{"established, 1 flow", []bar{{value: 50}}}},
		"services":   {{"not ours, 1000 services, 65,536 flows", []bar{{value: 10}}}, {"forward, each flow to another service, 65,536 flows", []bar{{value: 20}}}},
		"schedulers": {{"new TCP v4 (rr, 10 backends), 65,536 flows", []bar{{value: 850}}}},
	} {
		if d := cmp.Diff(want, charts[name].groups, cmp.AllowUnexported(group{}, bar{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestPacketTables(t *testing.T) {
	tables := packetTables(packets[:2])
	want := map[string]string{"packets.json: packets": "```\n" +
		"       PACKET  FLOWS  FILL  MIN ns  MEDIAN ns  SPREAD  NET ns\n" +
		"     floor tc      0    0%    19.0       20.0      3%     0.0\n" +
		"  established      1   50%    79.5       80.0      0%    50.0\n```\n"}
	if d := cmp.Diff(want, tables); d != "" {
		t.Error(d)
	}
	if n := len(packetTables(packets)); n != 3 {
		t.Errorf("%d tables", n)
	}
}

func TestTheTableHasAPlace(t *testing.T) {
	begins := tableBegins("network.json")
	page, err := withTable([]byte("before\n"+begins+"old\n"+tableEnds+"after\n"), "network.json", "new\n")
	if want := "before\n" + begins + "\nnew\n\n" + tableEnds + "after\n"; err != nil || string(page) != want {
		t.Errorf("%v, %q, want %q", err, page, want)
	}
	for _, page := range []string{"", begins, tableEnds + begins, tableBegins("packets.json") + tableEnds} {
		if _, err := withTable([]byte(page), "network.json", ""); err == nil {
			t.Errorf("%q has a place for a table", page)
		}
	}
}

// TestDocsAreWhatWasMeasured: pictures and table are made of what is committed beside
// them, each picture is shown, and none is without data. Else: make plots.
func TestDocsAreWhatWasMeasured(t *testing.T) {
	const docs = "../../docs"
	files, err := made(docs)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(docs, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("docs/%s is not what make plots makes: %v", name, err)
		}
	}
	pictures, err := filepath.Glob(docs + "/plots/*.svg")
	if err != nil || len(pictures) == 0 {
		t.Fatalf("no pictures: %v", err)
	}
	var shown, there []string
	for _, m := range regexp.MustCompile(`\]\((plots/[^)]+\.svg)\)`).FindAllSubmatch(files["benchmarks.md"], -1) {
		shown = append(shown, string(m[1]))
	}
	for _, p := range pictures {
		name := "plots/" + filepath.Base(p)
		there = append(there, name)
		if files[name] == nil {
			t.Errorf("docs/%s is of no data", name)
		}
	}
	slices.Sort(shown)
	if d := cmp.Diff(there, shown); d != "" {
		t.Errorf("pictures that are there (-) and in benchmarks.md (+): %s", d)
	}
}
