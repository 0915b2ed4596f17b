// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

var errInterrupted = errors.New("interrupted by the test")

// interrupt ends a growth at the step where it is to stop.
func (r *rig) interrupt(s loader.GrowthStep) error {
	if s == r.stop {
		return errInterrupted
	}
	return nil
}

// keepGrowing begins a growth, if one is to be under way.
func (r *rig) keepGrowing() {
	r.t.Helper()
	if r.grows && !r.d.gen.TwoTables() {
		r.growUntil(r.stop)
	}
}

// growUntil grows the flow table to twice its size, up to a step.
func (r *rig) growUntil(s loader.GrowthStep) {
	r.t.Helper()
	r.stop = s
	if _, err := r.d.growFlows(r.t.Context(), 2*r.d.gen.Flows.MaxEntries(), nil); !errors.Is(err, errInterrupted) {
		r.t.Fatalf("growth: %v, want it to stop when %s", err, s)
	}
}

// grow grows the flow table to twice its size, or goes on with a growth.
func (r *rig) grow() growth {
	r.t.Helper()
	r.stop = ""
	g, err := r.d.growFlows(r.t.Context(), 2*r.d.gen.Flows.MaxEntries(), nil)
	r.do(err)
	return g
}

// move walks the first table once, and moves what it meets.
func (r *rig) move() {
	r.t.Helper()
	if r.d.gen == nil {
		return // nobody is there to move them
	}
	if r.mover == nil {
		var err error
		r.mover, err = newMover(r.d.loader)
		r.do(err)
	}
	_, err := r.mover.walk(func() error { return nil })
	r.do(err)
}

// The suite does not see whether the flow table grows, and has all flows moved
// after each packet. A part of it, as the verifier needs long for each rig.
func TestConformanceWhileTheFlowTableGrows(t *testing.T) {
	conformance.RunPart(t, lb.IPv4, lb.TCP, func(t *testing.T) conformance.Rig {
		r := newRig(t, nil)
		r.stop, r.grows, r.moves = loader.GrowthNext, true, true
		return r
	})
}

// The log says once that the flow table is nearly as full as it may become, and
// again if it was not so in between.
func TestANearlyFullFlowTableIsSaidOnce(t *testing.T) {
	r := newRig(t, nil)
	r.apply()
	var text bytes.Buffer
	r.d.log = slog.New(slog.NewTextHandler(&text, nil))
	g := &flowGrower{d: r.d}
	full := uint64(r.d.flowsLimit())
	for _, step := range []struct{ percent, said uint64 }{{50, 0}, {81, 1}, {99, 1}, {75, 1}, {81, 1}, {60, 1}, {81, 2}} {
		g.note(uint32(full * step.percent / 100))
		if said := strings.Count(text.String(), "flag=--flows-max"); uint64(said) != step.said {
			t.Errorf("at %d %%: said %d times, want %d:\n%s", step.percent, said, step.said, text.String())
		}
	}
}

// Programs that are loaded for a growth of the flow table know how many places the
// ring of half-open flows has.
func TestHalfOpenFlowsMakeRoomWhileTheFlowTableGrows(t *testing.T) {
	const places = 1 << 8
	r := newRig(t, map[string]uint32{"half_open": places})
	r.apply(serve("web", []int{1}, 1))
	for _, grow := range []func(){func() {}, func() { r.growUntil(loader.GrowthNext) }, func() { r.grow() }} {
		grow()
		for range 2 * places {
			r.syn(1)
		}
		if _, halfOpen := r.tally(); halfOpen > places {
			t.Errorf("%d flows are half-open in a ring of %d places", halfOpen, places)
		}
	}
}
