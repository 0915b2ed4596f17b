// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/loader"
)

// Status says what is known without work: what tasks found, and a few numbers.
func (d *Dataplane) Status() (s dataplane.Status, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	method, why := d.loader.Method()
	s = dataplane.Status{
		Dataplane: Name,
		Entries:   d.entries.Load(), Limit: d.flowsLimit(),
		Audit: d.audited, Audited: d.auditedAt,
		Method: string(method), Why: why, Devices: devicesOf(d.loader.Devices()),
	}
	s.Cgroup, s.Hooks = d.loader.Cgroup()
	s.Max = max(s.Limit, d.flowsMax)
	if d.gen != nil {
		s.Generation = d.gen.Number
	}
	s.Grows = d.limits.byMap()
	s.Grows["flows"] = s.Max
	s.Mended, s.Followed, s.Broken = d.following.counts()
	s.SocketsEnded = d.socketsEnded.Load()
	ring, err := ringOf(d.loader.Map("half_open_ends"))
	s.HalfOpen = ring.Count
	return s, err
}

// ringOf reads what there is of half-open flows.
func ringOf(ends *cilium.Map) (ring bpf.LBHalfOpenRing, err error) {
	if err := ends.Lookup(uint32(0), &ring); err != nil {
		return ring, fmt.Errorf("read how many flows are half-open: %w", err)
	}
	return ring, nil
}

func devicesOf(list []loader.Device) []dataplane.Device {
	out := make([]dataplane.Device, 0, len(list))
	for _, d := range list {
		out = append(out, dataplane.Device{Name: d.Name, Index: d.Index, Ingress: d.Ingress, Egress: d.Egress, Why: d.Why, XDP: string(d.XDP.Mode), XDPWhy: d.XDP.Why})
	}
	return out
}

// Status says what the pins tell, which takes walks over all maps. Devices are
// those of the calling thread's network namespace, which must be the
// dataplane's. There is no audit in it: see Recount.
func (p *Pins) Status() (s dataplane.Status, err error) {
	s = dataplane.Status{Dataplane: Name, Generation: p.pinned.Generation, Why: "the links that are pinned are of this kind"}
	ring, err := ringOf(p.pinned.Maps["half_open_ends"])
	if err != nil {
		return s, err
	}
	s.HalfOpen = ring.Count
	now, err := nlx.Read()
	if err != nil {
		return s, err
	}
	method, list, err := loader.PinnedDevices(p.pinPath, now.Links)
	if err != nil {
		return s, err
	}
	s.Method, s.Devices = string(method), devicesOf(list)
	if s.Cgroup, s.Hooks, err = loader.PinnedCgroup(p.pinPath); err != nil {
		return s, err
	}
	if method == loader.Auto {
		s.Why = "nothing is attached"
	}
	if s.Maps, err = p.fills(); err != nil {
		return s, err
	}
	for _, f := range s.Maps {
		if f.Map == "flows" || f.Map == "flows_next" {
			s.Entries, s.Limit = f.Used, f.Limit
		}
	}
	return s, nil
}
