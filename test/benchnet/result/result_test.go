// SPDX-License-Identifier: Apache-2.0

package result

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   Summary
	}{
		{nil, Summary{}},
		{[]float64{3}, Summary{3, 3, 3}},
		{[]float64{3, 1, 2}, Summary{2, 1, 3}},
		{[]float64{4, 1, 2, 3}, Summary{2.5, 1, 4}},
	} {
		if got := Summarize(tt.values); got != tt.want {
			t.Errorf("of %v: %v, want %v", tt.values, got, tt.want)
		}
	}
}

var rate, delay = Metric{Name: "rate", Unit: "1/s"}, Metric{Name: "delay", Unit: "µs", LessIsBetter: true}

// made has a sample for each value of a path, one a repeat.
func made(metric Metric, values map[string][]float64) *File {
	f := &File{Metrics: []Metric{rate, delay}, Rivals: []string{"nftables", "iptables"}}
	for _, path := range []string{"direct", "waggle", "nftables", "iptables"} {
		for repeat, v := range values[path] {
			f.Samples = append(f.Samples, Sample{Repeat: repeat, Services: 10, From: FromClient, Path: path, Metric: metric.Name, Value: v})
		}
	}
	return f
}

func TestRatiosAreToTheBestRivalOfTheRepeat(t *testing.T) {
	for _, tt := range []struct {
		name   string
		metric Metric
		values map[string][]float64
		want   map[string]Summary
	}{
		{"more is better, and which is best changes", rate,
			map[string][]float64{"waggle": {30, 30, 30}, "nftables": {10, 20, 15}, "iptables": {20, 10, 10}},
			map[string]Summary{"waggle": {1.5, 1.5, 2}, "nftables": {1, 0.5, 1}, "iptables": {2. / 3, 0.5, 1}}},
		{"less is better", delay,
			map[string][]float64{"waggle": {5}, "nftables": {10}, "iptables": {20}},
			map[string]Summary{"waggle": {2, 2, 2}, "nftables": {1, 1, 1}, "iptables": {0.5, 0.5, 0.5}}},
		{"one rival alone", rate,
			map[string][]float64{"waggle": {5, 6}, "nftables": {10, 3}},
			map[string]Summary{"waggle": {1.25, 0.5, 2}, "nftables": {1, 1, 1}}},
		{"no rival", rate, map[string][]float64{"waggle": {5}, "direct": {6}}, map[string]Summary{"waggle": {}, "direct": {}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(map[string]Summary)
			for _, r := range made(tt.metric, tt.values).Rows() {
				if r.Services != 10 || r.From != FromClient || r.Metric != tt.metric {
					t.Errorf("a row that nobody measured: %+v", r)
				}
				got[r.Path] = r.Ratio
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRowsAreInOrder(t *testing.T) {
	f := &File{Metrics: []Metric{rate, delay}, Rivals: []string{"b"}}
	f.Samples = []Sample{
		{0, 1000, FromNode, "a", "delay", 1}, {0, 1000, FromNode, "b", "rate", 1}, {0, 1, FromNode, "a", "rate", 1},
		{0, 1, FromClient, "b", "rate", 1}, {0, 1, FromClient, "a", "rate", 1}, {1, 1, FromClient, "a", "rate", 2},
	}
	type place struct {
		services           int
		from, metric, path string
	}
	var got []place
	for _, r := range f.Rows() {
		got = append(got, place{r.Services, r.From, r.Metric.Name, r.Path})
	}
	want := []place{
		{1, FromClient, "rate", "a"}, {1, FromClient, "rate", "b"}, {1, FromNode, "rate", "a"},
		{1000, FromNode, "rate", "b"}, {1000, FromNode, "delay", "a"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(place{})); d != "" {
		t.Error(d)
	}
}
