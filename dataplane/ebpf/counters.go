// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/stats"
)

// Counters returns the counters of all backends that have an id, draining ones
// included, and of the drops.
func (r *reader) Counters() (dataplane.Counters, error) {
	out := dataplane.Counters{
		Backends: make(map[lb.BackendID]dataplane.BackendCounters),
		Drops:    make(map[string]uint64),
	}
	c, err := r.contents()
	if err != nil {
		return out, err
	}
	var last uint32
	byID := make(map[uint32]*dataplane.BackendCounters, len(c.backends))
	for _, b := range c.backends {
		byID[b.id] = &dataplane.BackendCounters{}
		last = max(last, b.id)
	}
	err = stats.EachLoad(r.load, last, func(id uint32, l bpf.LBBackendLoad) {
		if n := byID[id]; n != nil {
			n.Active, n.Inactive, n.Overloaded = uint64(l.Active), uint64(l.Inactive), l.Overloaded != 0
		}
	})
	if err != nil {
		return out, err
	}
	err = stats.EachStats(r.stats, last, func(id uint32, sum bpf.LBBackendStats) {
		if n := byID[id]; n != nil {
			n.Connections = sum.Connections
			n.InPackets, n.InBytes = sum.InPackets, sum.InBytes
			n.OutPackets, n.OutBytes = sum.OutPackets, sum.OutBytes
		}
	})
	if err != nil {
		return out, err
	}
	for _, b := range c.backends {
		out.Backends[lb.BackendID{Service: c.services[b.Service].ID, Addr: b.Addr}] = *byID[b.id]
	}
	err = stats.EachDrop(r.drops, func(reason uint32, packets uint64) {
		if name := r.names.drop(reason); name != "" && packets > 0 {
			out.Drops[name] = packets
		}
	})
	return out, err
}
