// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// The states of a Backend. A quiesced backend has weight 0: it keeps its
// connections and gets none. A draining one has left its service, or its
// service is gone, and is still known by its counters.
const (
	StateActive   = "active"
	StateQuiesced = "quiesced"
	StateDraining = "draining"
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
	Weight  uint16 `json:"weight"` // 0 of a draining one
	State   string `json:"state"`
	Traffic
}

// NewBackendList makes the list of backends: by service, in the order of the
// service's list (which decides ties and turns), the draining ones last.
// match tells which services take part.
func NewBackendList(snap *lb.Snapshot, c dataplane.Counters, match func(lb.ServiceID) bool) *BackendList {
	l := &BackendList{header: header{APIVersion, "BackendList"}, Items: []Backend{}}
	seen := make(map[lb.BackendID]bool)
	add := func(id lb.BackendID, weight uint16, state string) {
		item := Backend{
			Service: id.Service.Name, Family: id.Service.Family.String(),
			Address: id.Addr.String(), Weight: weight, State: state,
		}
		item.add(c.Backends[id])
		l.Items = append(l.Items, item)
	}
	for svc := range snap.All() {
		for _, b := range svc.Backends {
			id := lb.BackendID{Service: svc.ID, Addr: b.Addr}
			seen[id] = true
			state := StateActive
			if b.Weight == 0 {
				state = StateQuiesced
			}
			if match(svc.ID) {
				add(id, b.Weight, state)
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.Backends), compareBackends) {
		if !seen[id] && match(id.Service) {
			add(id, 0, StateDraining)
		}
	}
	slices.SortStableFunc(l.Items, func(a, b Backend) int {
		if n := strings.Compare(a.Service, b.Service); n != 0 {
			return n
		}
		return strings.Compare(a.Family, b.Family)
	})
	return l
}

func compareBackends(a, b lb.BackendID) int {
	if n := a.Service.Compare(b.Service); n != 0 {
		return n
	}
	return a.Addr.Compare(b.Addr)
}

func (l *BackendList) rows(w *rows, wide bool) {
	head := []any{"SERVICE", "BACKEND", "WEIGHT", "ACTIVE", "INACTIVE", "CONNECTIONS"}
	if wide {
		head = append(head, append(trafficHead()[1:], "STATE")...)
	}
	w.add(head...)
	for _, b := range l.Items {
		var weight any = b.Weight
		if b.State == StateDraining {
			weight = "-"
		}
		row := []any{b.Service, b.Address, weight, b.Active, b.Inactive, b.Connections}
		if wide {
			row = append(append(row, trafficCells(b.Traffic)...), b.State)
		}
		w.add(row...)
	}
}
