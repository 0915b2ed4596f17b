// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// The states of a Backend. A quiesced backend has weight 0: it keeps its
// connections and gets none. A draining one has left its service, or its
// service is gone, and has connections; a removed one has none any more, and is
// still known by its counters.
const (
	StateActive    = "active"
	StateQuiesced  = "quiesced"
	StateUnhealthy = "unhealthy"
	StateDraining  = "draining"
	StateRemoved   = "removed"
)

// BackendList is the output of `waggle backends`.
type BackendList struct {
	header
	Items []Backend `json:"items"`
}

// Backend is one backend of one service and its counters.
type Backend struct {
	Service string `json:"service"`
	Family  string `json:"family"`
	Address string `json:"address"`
	Weight  uint16 `json:"weight"` // 0 of one that has left
	State   string `json:"state"`
	// Overloaded says that it has reached its upper threshold, and since then
	// not been below the lower one.
	Overloaded     bool   `json:"overloaded"`
	UpperThreshold uint32 `json:"upperThreshold"` // connections; 0: none
	LowerThreshold uint32 `json:"lowerThreshold"` // 0: the upper one less a quarter
	Traffic
}

// NewBackendList makes the list of backends: by service, in the order of the
// service's list (which decides ties and turns), those that have left it last.
// match tells which services take part.
func NewBackendList(snap *lb.Snapshot, c dataplane.Counters, match func(lb.ServiceID) bool) *BackendList {
	l := &BackendList{header: header{APIVersion, "BackendList"}, Items: []Backend{}}
	seen := make(map[lb.BackendID]bool)
	add := func(id lb.BackendID, item Backend) {
		item.Service, item.Family, item.Address = id.Service.Name, id.Service.Family.String(), id.Addr.String()
		item.add(c.Backends[id])
		l.Items = append(l.Items, item)
	}
	for svc := range snap.All() {
		for _, b := range svc.Backends {
			id := lb.BackendID{Service: svc.ID, Addr: b.Addr}
			seen[id] = true
			if match(svc.ID) {
				add(id, Backend{
					Weight: b.Weight, State: stateOf(&b), Overloaded: c.Backends[id].Overloaded,
					UpperThreshold: b.Upper, LowerThreshold: b.Lower,
				})
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.Backends), compareBackends) {
		if seen[id] || !match(id.Service) {
			continue
		}
		state := StateDraining
		if b := c.Backends[id]; b.Active+b.Inactive == 0 {
			state = StateRemoved
		}
		add(id, Backend{State: state})
	}
	slices.SortStableFunc(l.Items, func(a, b Backend) int {
		if n := strings.Compare(a.Service, b.Service); n != 0 {
			return n
		}
		return strings.Compare(a.Family, b.Family)
	})
	return l
}

// stateOf is the state of a backend that is in its service.
func stateOf(b *lb.Backend) string {
	switch {
	case b.Unhealthy:
		return StateUnhealthy
	case b.Weight == 0:
		return StateQuiesced
	}
	return StateActive
}

// left says that the backend is in no service any more.
func (b *Backend) left() bool { return b.State == StateDraining || b.State == StateRemoved }

func compareBackends(a, b lb.BackendID) int {
	if n := a.Service.Compare(b.Service); n != 0 {
		return n
	}
	return a.Addr.Compare(b.Addr)
}

func (l *BackendList) rows(w *rows, wide bool) {
	head := []any{"SERVICE", "BACKEND", "WEIGHT", "ACTIVE", "INACTIVE", "CONNECTIONS"}
	if wide {
		head = append(append(head, trafficHead()[1:]...), "THRESHOLDS")
	}
	w.add(append(head, "STATE")...)
	for _, b := range l.Items {
		var weight any = b.Weight
		thresholds := "-"
		if b.left() {
			weight = "-"
		}
		if b.UpperThreshold > 0 {
			thresholds = fmt.Sprintf("%d/%d", b.UpperThreshold, b.LowerThreshold)
		}
		row := []any{b.Service, b.Address, weight, b.Active, b.Inactive, b.Connections}
		if wide {
			row = append(append(row, trafficCells(b.Traffic)...), thresholds)
		}
		state := b.State
		if b.Overloaded {
			state += ",overloaded"
		}
		w.add(append(row, state)...)
	}
}
