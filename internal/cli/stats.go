// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"maps"
	"slices"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Stats is the output of `waggle stats`.
type Stats struct {
	header
	Totals Totals `json:"totals"`
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

// DropCount is how many packets were refused or dropped for one reason.
type DropCount struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
}

// NewStats makes the sums. reasons gives the order of the drops; a counted
// reason that is not among them comes after.
func NewStats(snap *lb.Snapshot, c dataplane.Counters, reasons []string) *Stats {
	s := &Stats{header: header{APIVersion, "Stats"}, Drops: make([]DropCount, 0, len(reasons))}
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
