// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

func TestMedianAndMiddleHalf(t *testing.T) {
	for _, tc := range []struct {
		name    string
		samples []float64
		want    figure
	}{
		{"one", []float64{7}, figure{7, 0}},
		{"two", []float64{9, 7}, figure{8, 2}},
		{"four", []float64{4, 1, 3, 2}, figure{2.5, 1}},
		{"an outlier of nine", []float64{5, 5, 6, 7, 8, 9, 9, 9, 1000}, figure{8, 3}},
	} {
		if got := summarize(tc.samples); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// What a way adds is compared with the routing of the same repeat, so that what a whole
// repeat has more is none of it.
func TestTableComparesRepeats(t *testing.T) {
	r := make(results)
	for i, s := range []struct{ plain, ipvs, ebpf float64 }{{100, 300, 150}, {1100, 1300, 1150}, {100, 302, 148}} {
		for _, n := range []int{1, 10000} {
			w := what{n, "UDP"}
			r.add(w, "plain", s.plain)
			r.add(w, "IPVS", s.ipvs+float64(n-1))
			r.add(w, "eBPF", s.ebpf)
		}
		if i == 0 {
			r.add(what{1, "not asked for"}, "plain", 1)
		}
	}
	want := `SERVICES WHAT BY INSTRUCTIONS SPREAD ADDS SPREAD OF IPVS'S
1 UDP plain 100 1000
1 UDP IPVS 302 1000 200 2 1.00
1 UDP eBPF 150 1002 50 2 0.25
10000 UDP plain 100 1000
10000 UDP IPVS 10301 1000 10199 2 1.00
10000 UDP eBPF 150 1002 50 2 0.00
`
	var got strings.Builder
	if err := r.print(&got, []int{1, 10000}, []string{"UDP"}, []string{"plain", "IPVS", "eBPF"}, "plain", "IPVS"); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for line := range strings.Lines(got.String()) {
		lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	if d := cmp.Diff(want, lines.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestRunsOfProgramsAreDifferences(t *testing.T) {
	before := map[ebpf.ProgramID]runs{1: {"tc_egress", 100, 5000}, 2: {"idle", 3, 30}}
	after := map[ebpf.ProgramID]runs{1: {"tc_egress", 300, 25000}, 2: {"idle", 3, 30}, 7: {"tc_ingress", 200, 8000}}
	want := []average{{"tc_egress", 2, 100}, {"tc_ingress", 2, 40}}
	if got := averages(before, after, 100); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
