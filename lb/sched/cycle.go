// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"cmp"
	"slices"
	"sort"

	"github.com/waggle-lb/waggle/lb"
)

// MaxSlots bounds wrr's cycle, which has as many slots as the weights sum to,
// divided by their greatest common divisor: longer ones get scaled weights.
const MaxSlots = 1 << 16

// cycle is the order of wrr: passes over the list with a threshold that falls
// from mw in steps of di to 1. Each serves those whose weight reaches it.
type cycle struct {
	di, mw int
	levels []level // from the top
}

// level is a row of passes that serve the same backends, as many as size: their
// slots begin at first, their thresholds at cw.
type level struct{ first, cw, size int }

// newCycle measures a list and returns the weights that count: 0 for those that
// are not usable, and scaled ones if the cycle would be too long.
func newCycle(list []lb.Backend) (c cycle, weights []int) {
	var m measure
	weights = make([]int, len(list))
	for i, b := range list {
		one := measured(b)
		weights[i], m = one.max, m.and(one)
	}
	c.di = max(m.gcd, 1)
	if m.sum/c.di > MaxSlots {
		weights, c.di = scale(weights, m.sum), 1
		m.max = slices.Max(weights)
	}
	c.mw = m.max - (c.di - 1)
	return c, weights
}

// scale brings weights into proportion to MaxSlots: each w > 0 becomes
// max(1, round(w·t/sum)), where t is the largest number up to MaxSlots for which
// all these together are not more than MaxSlots.
func scale(weights []int, sum int) []int {
	scaled := func(w, t int) int { return max(min(w, 1), (2*w*t+sum)/(2*sum)) }
	t := sort.Search(MaxSlots, func(t int) bool {
		all := 0
		for _, w := range weights {
			all += scaled(w, t+1)
		}
		return all > MaxSlots
	})
	out := make([]int, len(weights))
	for i, w := range weights {
		out[i] = scaled(w, t)
	}
	return out
}

// slots lays out the cycle and notes its levels. It takes no time for passes in
// which most do not serve, but for slots.
func (c *cycle) slots(weights []int) []uint16 {
	var order []uint16 // by falling weight, then list order
	total := 0
	for i, w := range weights {
		if w > 0 {
			order = append(order, uint16(i))
			total += w
		}
	}
	weight := func(i uint16) int { return weights[i] }
	slices.SortStableFunc(order, func(a, b uint16) int { return cmp.Compare(weight(b), weight(a)) })
	out := make([]uint16, 0, total/c.di)
	var served []uint16 // by a pass, in list order
	for len(order) > 0 {
		w, n := weight(order[0]), 1
		for n < len(order) && weight(order[n]) == w {
			n++
		}
		served = merge(served, order[:n])
		order = order[n:]
		below := 0
		if len(order) > 0 {
			below = weight(order[0])
		}
		c.levels = append(c.levels, level{len(out), w - (c.di - 1), len(served)})
		for range (w - below) / c.di {
			out = append(out, served...)
		}
	}
	return out
}

// merge merges two ascending lists.
func merge(a, b []uint16) []uint16 {
	out := make([]uint16, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// threshold is that of the pass which a slot belongs to.
func (c *cycle) threshold(slot int) int {
	i := sort.Search(len(c.levels), func(i int) bool { return c.levels[i].first > slot })
	l := c.levels[i-1]
	return l.cw - (slot-l.first)/l.size*c.di
}

// pass is the first slot of the pass with this threshold, and how many it has.
func (c *cycle) pass(cw int) (first, size int) {
	i := sort.Search(len(c.levels), func(i int) bool { return c.levels[i].cw < cw })
	l := c.levels[i-1]
	return l.first + (l.cw-cw)/c.di*l.size, l.size
}
