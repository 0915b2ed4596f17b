// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTurns(t *testing.T) {
	tests := []struct {
		scheduler string
		weights   []uint16
		want      []int
		exact     bool
	}{
		{"rr", []uint16{5, 3, 1}, []int{1, 1, 1}, true},
		{"rr", []uint16{5, 0, 1}, []int{1, 0, 1}, true},
		{"wrr", []uint16{5, 3, 1}, []int{5, 3, 1}, true},
		{"wrr", []uint16{10, 4, 0}, []int{5, 2, 0}, true},
		{"wrr", []uint16{65535, 65535}, []int{1, 1}, true},
		{"wrr", []uint16{0}, []int{0}, true},
		{"lc", []uint16{4, 2}, []int{2, 1}, false},
	}
	for _, tt := range tests {
		got, exact := turns(tt.scheduler, tt.weights)
		if diff := cmp.Diff(tt.want, got); diff != "" || exact != tt.exact {
			t.Errorf("turns(%s, %v): exact %v, want %v (-want +got):\n%s", tt.scheduler, tt.weights, exact, tt.exact, diff)
		}
	}
}

func TestPromise(t *testing.T) {
	tests := []struct {
		cycle []int
		flows int
		want  []span
	}{
		{[]int{5, 3, 1}, 90, []span{{50, 50}, {30, 30}, {10, 10}}},
		{[]int{5, 3, 1}, 94, []span{{50, 54}, {30, 33}, {10, 11}}},
		{[]int{5, 3, 1}, 97, []span{{53, 55}, {31, 33}, {10, 11}}},
		{[]int{1, 0, 1}, 3, []span{{1, 2}, {0, 0}, {1, 2}}},
		{[]int{1}, 7, []span{{7, 7}}},
		{[]int{0, 0}, 7, []span{{0, 0}, {0, 0}}},
	}
	for _, tt := range tests {
		got := promise(tt.cycle, tt.flows)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(span{})); diff != "" {
			t.Errorf("promise(%v, %d) (-want +got):\n%s", tt.cycle, tt.flows, diff)
		}
	}
}

// Any window of a cycle in any order keeps the promise; and both ends of the
// span are met by some order, so the promise is not looser than the truth.
func TestPromiseHoldsForEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cycle := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 5).Draw(t, "cycle")
		cycle[0]++ // somebody is picked
		var order []int
		for i, n := range cycle {
			for range n {
				order = append(order, i)
			}
		}
		sorted := append([]int(nil), order...)
		order = rapid.Permutation(order).Draw(t, "order")
		start := rapid.IntRange(0, len(order)-1).Draw(t, "start")
		flows := rapid.IntRange(0, 40).Draw(t, "flows")
		promised := promise(cycle, flows)
		got := count(order, start, flows, len(cycle))
		for i, p := range promised {
			if got[i] < p.min || got[i] > p.max {
				t.Fatalf("server %d got %d, promised %s", i, got[i], p)
			}
		}
		// The server's turns in one block: begin with them, or just after.
		first := 0
		for i, p := range promised {
			if n := count(sorted, first, flows, len(cycle))[i]; n != p.max {
				t.Fatalf("server %d: the most is %d, promised %s", i, n, p)
			}
			first += cycle[i]
			if n := count(sorted, first, flows, len(cycle))[i]; n != p.min {
				t.Fatalf("server %d: the least is %d, promised %s", i, n, p)
			}
		}
	})
}

func count(order []int, start, flows, servers int) []int {
	got := make([]int, servers)
	for i := range flows {
		got[order[(start+i)%len(order)]]++
	}
	return got
}
