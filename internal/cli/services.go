// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Traffic is the schema of counters. Active and Inactive are gauges, the
// others only grow; bytes are those of IP packets, header included.
type Traffic struct {
	Active      uint64 `json:"active"`
	Inactive    uint64 `json:"inactive"`
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"inPackets"`
	InBytes     uint64 `json:"inBytes"`
	OutPackets  uint64 `json:"outPackets"`
	OutBytes    uint64 `json:"outBytes"`
}

func (t *Traffic) add(c dataplane.BackendCounters) {
	t.Active += c.Active
	t.Inactive += c.Inactive
	t.Connections += c.Connections
	t.InPackets += c.InPackets
	t.InBytes += c.InBytes
	t.OutPackets += c.OutPackets
	t.OutBytes += c.OutBytes
}

// ServiceList is the output of `waggle services`.
type ServiceList struct {
	header
	Items []Service `json:"items"`
}

// Service is one service and the sum of its backends' counters, those of
// draining backends included.
type Service struct {
	Name      string `json:"name"`
	Family    string `json:"family"`
	Scheduler string `json:"scheduler"`
	// Masquerade is "never" or "always".
	Masquerade string   `json:"masquerade"`
	Frontends  []string `json:"frontends"`
	Backends   int      `json:"backends"`
	Traffic
}

// NewServiceList makes the list of the snapshot's services, by name and family.
func NewServiceList(snap *lb.Snapshot, c dataplane.Counters) *ServiceList {
	sums := make(map[lb.ServiceID]*Traffic)
	for id, b := range c.Backends {
		if sums[id.Service] == nil {
			sums[id.Service] = &Traffic{}
		}
		sums[id.Service].add(b)
	}
	l := &ServiceList{header: header{APIVersion, "ServiceList"}, Items: make([]Service, 0, snap.Len())}
	for svc := range snap.All() {
		item := Service{
			Name: svc.ID.Name, Family: svc.ID.Family.String(), Scheduler: svc.Scheduler,
			Masquerade: svc.Masquerade.String(), Frontends: frontends(svc), Backends: len(svc.Backends),
		}
		if t := sums[svc.ID]; t != nil {
			item.Traffic = *t
		}
		l.Items = append(l.Items, item)
	}
	return l
}

// frontends are sorted, because the kernel's map has no order of its own.
func frontends(svc *lb.Service) []string {
	out := make([]string, 0, len(svc.Frontends))
	for _, f := range slices.SortedFunc(slices.Values(svc.Frontends), lb.Frontend.Compare) {
		out = append(out, f.String())
	}
	return out
}

// shownFrontends is how many the narrow table shows of each service.
const shownFrontends = 2

func (l *ServiceList) rows(w *rows, wide bool) {
	head := []any{"NAME", "FAMILY", "SCHEDULER", "FRONTENDS", "BACKENDS", "ACTIVE", "INACTIVE"}
	if wide {
		head = append(append(head, "MASQUERADE"), trafficHead()...)
	}
	w.add(head...)
	for _, s := range l.Items {
		front, more := s.Frontends, ""
		if n := len(front) - shownFrontends; n > 0 && !wide {
			front, more = front[:shownFrontends], fmt.Sprintf(",+%d", n)
		}
		// No cell is empty: programs that split at spaces count columns.
		shown := cmp.Or(strings.Join(front, ",")+more, "-")
		row := []any{s.Name, s.Family, s.Scheduler, shown, s.Backends, s.Active, s.Inactive}
		if wide {
			row = append(append(row, s.Masquerade, s.Connections), trafficCells(s.Traffic)...)
		}
		w.add(row...)
	}
}

func trafficHead() []any {
	return []any{"CONNECTIONS", "IN-PACKETS", "IN-BYTES", "OUT-PACKETS", "OUT-BYTES"}
}

func trafficCells(t Traffic) []any {
	return []any{t.InPackets, t.InBytes, t.OutPackets, t.OutBytes}
}
