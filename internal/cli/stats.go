// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Stats is the output of `waggle stats`.
type Stats struct {
	header
	Totals Totals `json:"totals"`
	Counts Counts `json:"counts"`
	// Drops has every reason that the dataplane knows, also those at 0.
	Drops []DropCount `json:"drops"`
}

// Totals are the sums over all services.
type Totals struct {
	Services int `json:"services"`
	Backends int `json:"backends"`
	Traffic
	Drops uint64 `json:"drops"`
}

// Counts compares what the backends' counts say, active and inactive, with the
// flows that there are.
type Counts struct {
	// Backends were compared. Skipped are those whose connections came and went
	// meanwhile: of them only a difference greater than that is known for one.
	Backends int `json:"backends"`
	Skipped  int `json:"skipped"`
	// Difference is the sum of all differences. It must be 0.
	Difference uint64     `json:"difference"`
	Wrong      []Miscount `json:"wrong"`
}

// Miscount is a backend whose counts differ from its flows. Service and Backend
// are empty if no backend has the id any more.
type Miscount struct {
	Service       string `json:"service"`
	Family        string `json:"family"`
	Backend       string `json:"backend"`
	ID            uint32 `json:"id"`
	Active        int64  `json:"active"`
	ActiveFlows   int64  `json:"activeFlows"`
	Inactive      int64  `json:"inactive"`
	InactiveFlows int64  `json:"inactiveFlows"`
	Difference    uint64 `json:"difference"`
	// AtLeast says that the backend was skipped: the difference may be greater.
	AtLeast bool `json:"atLeast"`
}

// DropCount is how many packets were refused or dropped for one reason.
type DropCount struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
}

// NewStats makes the sums. counts is what a recount found; reasons gives the order of the drops; a counted
// reason that is not among them comes after.
func NewStats(snap *lb.Snapshot, c dataplane.Counters, counts dataplane.Recount, reasons []string) *Stats {
	s := &Stats{header: header{APIVersion, "Stats"}, Counts: newCounts(counts), Drops: make([]DropCount, 0, len(reasons))}
	s.Totals.Services = snap.Len()
	for svc := range snap.All() {
		s.Totals.Backends += len(svc.Backends)
	}
	for _, b := range c.Backends {
		s.Totals.add(b)
	}
	add := func(reason string) {
		n := c.Drops[reason]
		s.Totals.Drops += n
		s.Drops = append(s.Drops, DropCount{reason, n, Meaning(reason)})
	}
	for _, r := range reasons {
		add(r)
	}
	for _, r := range slices.Sorted(maps.Keys(c.Drops)) {
		if !slices.Contains(reasons, r) {
			add(r)
		}
	}
	return s
}

func newCounts(r dataplane.Recount) Counts {
	c := Counts{Backends: r.Compared, Skipped: r.Skipped, Difference: r.Difference, Wrong: make([]Miscount, 0, len(r.Wrong))}
	for _, m := range r.Wrong {
		item := Miscount{
			ID: m.ID, Active: m.Counted.Active, ActiveFlows: m.Found.Active, Inactive: m.Counted.Inactive, InactiveFlows: m.Found.Inactive,
			Difference: m.Difference, AtLeast: m.AtLeast,
		}
		if m.Backend != (lb.BackendID{}) {
			item.Service, item.Family, item.Backend = m.Backend.Service.Name, m.Backend.Service.Family.String(), m.Backend.Addr.String()
		}
		c.Wrong = append(c.Wrong, item)
	}
	return c
}

func (c *Counts) line() string {
	line := fmt.Sprintf("%d backends recounted, difference %d", c.Backends, c.Difference)
	if c.Skipped > 0 {
		line += fmt.Sprintf("; %d skipped, as their connections came and went meanwhile", c.Skipped)
	}
	return line
}

// rows writes a line, and a table if there is something wrong.
func (c *Counts) rows(w *rows) {
	w.add("counts: " + c.line())
	if len(c.Wrong) == 0 {
		return
	}
	w.add()
	w.add("WRONG COUNT", "SERVICE", "ACTIVE", "ACTIVE-FLOWS", "INACTIVE", "INACTIVE-FLOWS")
	for _, m := range c.Wrong {
		w.add(cmp.Or(m.Backend, fmt.Sprintf("id %d", m.ID)), cmp.Or(m.Service, "-"), m.Active, m.ActiveFlows, m.Inactive, m.InactiveFlows)
	}
}

func (s *Stats) rows(w *rows, wide bool) {
	t := s.Totals
	w.add("TOTAL", "VALUE")
	w.add("services", t.Services)
	w.add("backends", t.Backends)
	w.add("active", t.Active)
	w.add("inactive", t.Inactive)
	w.add("connections", t.Connections)
	w.add("packets in", t.InPackets)
	w.add("bytes in", t.InBytes)
	w.add("packets out", t.OutPackets)
	w.add("bytes out", t.OutBytes)
	w.add("drops", t.Drops)
	w.add()
	s.Counts.rows(w)
	if t.Drops == 0 && !wide {
		return
	}
	// A line without tabs ends tabwriter's columns, so the second table has
	// its own widths.
	w.add()
	w.add("DROP", "PACKETS", "MEANING")
	for _, d := range s.Drops {
		if d.Packets > 0 || wide {
			w.add(d.Reason, d.Packets, d.Meaning)
		}
	}
}
