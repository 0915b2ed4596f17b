// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/testbinary"
)

const (
	alerts    = "deploy/chart/files/alerts.yaml"
	dashboard = "deploy/chart/files/dashboard.json"
)

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// query is a metric that an expression selects.
type query struct {
	file, of, expr, metric string
	labels                 []string
}

// queries are those of the alerts and of the dashboard, as Prometheus reads them.
func queries(t *testing.T) (out []query) {
	t.Helper()
	text, err := run(t, testbinary.Queries, alerts, dashboard)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 5 {
			t.Fatalf("%q is not a line of queries", line)
		}
		out = append(out, query{f[0], f[1], f[2], f[3], strings.FieldsFunc(f[4], func(r rune) bool { return r == ',' })})
	}
	return out
}

// registry is docs/metrics.md, which is made of the definitions: labels by metric.
func registry(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z_]+) \| (?:counter|gauge|histogram) \| ([a-z_ ]*) \|`).FindAllStringSubmatch(read(t, "docs/metrics.md"), -1) {
		out[m[1]] = strings.Fields(m[2])
	}
	if len(out) < 20 {
		t.Fatalf("docs/metrics.md has only %d metrics", len(out))
	}
	return out
}

// Prometheus's own, those of Go's client, and the labels that scraping adds.
var (
	others = []string{"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
	added  = []string{"job", "instance", "node"}
)

func TestEachMetricThatIsAskedForExists(t *testing.T) {
	known := registry(t)
	seen := make(map[string]int)
	for _, q := range queries(t) {
		seen[q.file]++
		labels, ok := known[histogram.ReplaceAllString(q.metric, "")]
		if !ok && !slices.Contains(others, q.metric) {
			t.Errorf("%s: %s asks for %s, which docs/metrics.md has not", q.file, q.of, q.metric)
		}
		for _, l := range q.labels {
			if l != "le" && !slices.Contains(labels, l) && !slices.Contains(added, l) {
				t.Errorf("%s: %s goes by label %s of %s, which has %v", q.file, q.of, l, q.metric, labels)
			}
		}
	}
	if seen[alerts] < 10 || seen[dashboard] < 20 {
		t.Errorf("only so many metrics were seen: %v", seen)
	}
}

// histogram is how the series of one end.
var histogram = regexp.MustCompile(`_(bucket|sum|count)$`)

// TestTheDocsListTheAlerts: docs/metrics.md says what each alert means.
func TestTheDocsListTheAlerts(t *testing.T) {
	doc := read(t, "docs/metrics.md")
	for _, q := range queries(t) {
		row := "| " + q.of + " | `" + strings.ReplaceAll(q.expr, "|", `\|`) + "` | "
		if q.file == alerts && !strings.Contains(doc, row) {
			t.Errorf("docs/metrics.md has no row %s", row)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (Waggle\w+) \|`).FindAllStringSubmatch(doc, -1) {
		if !strings.Contains(read(t, alerts), "alert: "+m[1]+"\n") {
			t.Errorf("docs/metrics.md explains %s, which %s has not", m[1], alerts)
		}
	}
}

// TestPanelsOfTheDashboard: ids are unique, no panel lies on another, and each says
// its data source by the variable.
func TestPanelsOfTheDashboard(t *testing.T) {
	var d struct {
		Panels []struct {
			ID         int
			Title      string
			Type       string
			GridPos    struct{ X, Y, W, H int }
			Datasource struct{ UID string }
			Targets    []struct{ RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	taken, ids := make(map[[2]int]string), make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (p.Datasource.UID != "${datasource}" || len(p.Targets) == 0) {
			t.Errorf("panel %s asks %q, %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if on := taken[[2]int{x, y}]; on != "" || x >= 24 {
					t.Fatalf("panel %s lies on %s, or beyond the edge", p.Title, on)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}
