// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/lb"
)

// manyWeights are 1000 backends with weights up to the largest.
func manyWeights() []lb.Backend {
	r := rand.New(rand.NewPCG(1, 2))
	var list []lb.Backend
	for i := range 1000 {
		list = append(list, backend(i+1, uint16(1+r.IntN(lb.MaxWeight))))
	}
	return list
}

// A cycle that is too long is made from scaled weights; the shares that result
// are in docs/schedulers.md.
func TestLongCyclesKeepTheShares(t *testing.T) {
	list := manyWeights()
	run := compile(t, service("wrr", list...), nil, Position{})
	sum := 0
	for _, b := range list {
		sum += int(b.Weight)
	}
	got := make([]int, len(list))
	for _, i := range run.Slots {
		got[i]++
	}
	var distance, worst, relative float64
	for i, b := range list {
		want := float64(b.Weight) / float64(sum)
		diff := math.Abs(float64(got[i])/float64(len(run.Slots)) - want)
		distance, worst = distance+diff/2, max(worst, diff)
		if b.Weight >= 1000 {
			relative = max(relative, diff/want)
		}
	}
	t.Logf("%d slots for a sum of %d; total variation distance %.4f %%, worst share off by %.6f %%, of those from weight 1000 up by %.1f %% of itself",
		len(run.Slots), sum, 100*distance, 100*worst, 100*relative)
	if len(run.Slots) > MaxSlots || slices.Min(got) == 0 {
		t.Errorf("%d slots, the fewest of a backend %d", len(run.Slots), slices.Min(got))
	}
	if distance >= 0.01 || worst >= 0.01 {
		t.Errorf("total variation distance %f, worst share off by %f", distance, worst)
	}
}

// The bound is on the cycle, not on the weights.
func TestCyclesUpToTheBoundAreExact(t *testing.T) {
	for _, c := range []struct {
		weights []uint16
		want    []int // slots of each
	}{
		{[]uint16{65535, 1}, []int{65535, 1}},
		{[]uint16{65535, 65535, 65535}, []int{1, 1, 1}},
		{[]uint16{60000, 20000, 0}, []int{3, 1, 0}},
		{[]uint16{32768, 32767, 1}, []int{32768, 32767, 1}},
		{[]uint16{65535, 2}, []int{65534, 2}},
		{[]uint16{65535, 65534, 1}, []int{32768, 32767, 1}},
	} {
		svc := service("wrr")
		for i, w := range c.weights {
			svc.Backends = append(svc.Backends, backend(i+1, w))
		}
		got := make([]int, len(c.weights))
		for _, i := range compile(t, svc, nil, Position{}).Slots {
			got[i]++
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v slots, want %v", c.weights, got, c.want)
		}
	}
}

// A run of scaled weights is that of a list with such weights, and goes on
// where it was.
func TestScaledCyclesGoOn(t *testing.T) {
	svc := service("wrr", backend(1, 65535), backend(2, 65533), backend(3, 5))
	scaled := service("wrr")
	_, weights := newCycle(svc.Backends)
	for i, w := range weights {
		scaled.Backends = append(scaled.Backends, backend(i+1, uint16(w)))
	}
	run, want := compile(t, svc, nil, Position{}), compile(t, scaled, nil, Position{})
	if !slices.Equal(run.Slots, want.Slots) || run.Start != want.Start || run.LastPass != want.LastPass {
		t.Error("scaled weights make another run than such weights")
	}
	for _, n := range []uint64{0, 1, 2, 1000, 65530, uint64(len(run.Slots))} {
		at := Position{Next: run.Start + n}
		again := compile(t, svc, run, at)
		if got, want := again.Start, at.Next%uint64(len(run.Slots)); got != want {
			t.Errorf("after %d picks at %d, want %d", n, got, want)
		}
	}
}

func BenchmarkCompileWRR(b *testing.B) {
	for name, list := range map[string][]lb.Backend{"scaled-1000": manyWeights(), "100": manyWeights()[:100], "2": {backend(1, 65535), backend(2, 1)}} {
		svc := service("wrr", list...)
		if name == "100" {
			svc.Backends = slices.Clone(list)
			for i := range svc.Backends {
				svc.Backends[i].Weight = uint16(1 + i%10)
			}
		}
		run := compile(b, svc, nil, Position{})
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				compile(b, svc, run, Position{Next: run.Start + 1})
			}
		})
	}
}
