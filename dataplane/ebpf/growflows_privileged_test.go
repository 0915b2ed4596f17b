// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"testing"

	"github.com/waggle-lb/waggle/dataplane/conformance"
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

// move moves all flows to the second table.
func (r *rig) move() {
	r.t.Helper()
	if r.d.gen != nil {
		r.do(r.d.moveFlows(r.t.Context(), &growth{}, nil))
	}
}

// The suite does not see whether the flow table grows, in any phase of it, with
// flows that are moved and flows that are not.
func TestConformanceWhileTheFlowTableGrows(t *testing.T) {
	for _, c := range []struct {
		name  string
		stop  loader.GrowthStep
		moves bool
	}{
		{"new keys go to the first table", loader.GrowthKnown, false},
		{"new keys are decided on in both", loader.GrowthBoth, false},
		{"new keys go to the second", loader.GrowthNext, false},
		{"and all are moved after each packet", loader.GrowthNext, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T) conformance.Rig {
				r := newRig(t, nil)
				r.stop, r.grows, r.moves = c.stop, true, c.moves
				return r
			})
		})
	}
}
