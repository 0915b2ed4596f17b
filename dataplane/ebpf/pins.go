// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/flows"
)

// Pins reads what is pinned, with or without a daemon: Read, Counters,
// Recount, Flows, Clients and Status. Safe for concurrent use.
type Pins struct {
	*reader
	pinPath string
	pinned  *loader.Pinned
	second  *second
}

// OpenPins opens a pin path to read. It fails with dataplane.ErrNotRunning if
// nothing is pinned there.
func OpenPins(pinPath string) (*Pins, error) {
	n, err := loadNames()
	if err != nil {
		return nil, err
	}
	p, err := loader.OpenPinned(pinPath)
	if errors.Is(err, loader.ErrNotRunning) {
		return nil, fmt.Errorf("%w: %w", dataplane.ErrNotRunning, err)
	}
	if err != nil {
		return nil, err
	}
	m := p.Maps
	second := &second{pinPath: pinPath, first: m["flows"]}
	return &Pins{pinPath: pinPath, pinned: p, second: second, reader: &reader{
		services: m["services"], backends: m["backends"], vips: m["vips"], sources: m["source_ranges"], serviceInfo: m["service_info"],
		load: m["load"], stats: m["stats"], drops: m["drops"], meta: m["meta"], affinity: m["affinity"], names: n,
		flows: flows.Table{Map: m["flows"], Next: m["flows_next"], Again: second.open}, walk: loader.PinnedWalk(pinPath),
	}}, nil
}

// Close releases the handles.
func (p *Pins) Close() error { return errors.Join(p.pinned.Close(), p.second.Close()) }

// Cleanup removes the programs, links and maps of a pin path and returns what
// it removed: nothing the second time. It fails while a daemon runs there.
func Cleanup(pinPath string) (removed []string, err error) { return loader.Cleanup(pinPath) }
