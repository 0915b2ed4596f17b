// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// lastBackend is the highest id that a world gives.
const lastBackend = 1000

// reset empties the maps.
func (k *kernel) reset() error {
	if err := k.AnyPort.Set(uint32(0)); err != nil {
		return err
	}
	for _, m := range []*ebpf.Map{k.Flows, k.Direct, k.Affinity, k.Fragments, k.Held, k.Vips, k.NodeAddrs, k.LBMaps.Devices,
		k.Prefixes, k.SourceRanges} {
		if _, err := countKeys(m, true); err != nil {
			return err
		}
	}
	for m, n := range map[*ebpf.Map]int{k.VipBits: 1 << 12, k.PeerBits: 1 << 12, k.BackendBits: 1 << 12, k.MasqBits: 1 << 12,
		k.NodePortBits: 1 << 10, k.Resourced: 1 << 12, k.Backends: lastBackend, k.BackendIds: int(k.BackendIds.MaxEntries()), k.Load: lastBackend, k.Stats: int(k.Stats.MaxEntries()), k.Services: 64, k.MasqPorts: int(bpf.LBLimitsMASQ_WORDS)} {
		if err := zero(m, n); err != nil {
			return err
		}
	}
	if err := k.ServiceRanges.Put(uint32(0), bpf.LBServiceRanges{}); err != nil {
		return err
	}
	if err := k.HalfOpenEnds.Put(uint32(0), bpf.LBHalfOpenRing{}); err != nil {
		return err
	}
	cpus := ebpf.MustPossibleCPU()
	for r := range uint32(bpf.LBDropReasonDROP_MAX) {
		if err := k.Drops.Put(r, make([]uint64, cpus)); err != nil {
			return err
		}
	}
	return nil
}

// zero clears the first n elements of an array.
func zero(m *ebpf.Map, n int) error {
	keys, values := make([]uint32, n), make([]byte, n*int(m.ValueSize()))
	for i := range keys {
		keys[i] = uint32(i)
	}
	var err error
	switch m.ValueSize() { // batches are slices of what an element holds
	case 4:
		_, err = m.BatchUpdate(keys, make([]uint32, n), nil)
	case 8:
		_, err = m.BatchUpdate(keys, make([]uint64, n), nil)
	case 16:
		_, err = m.BatchUpdate(keys, make([]gauges, n), nil)
	case 32:
		_, err = m.BatchUpdate(keys, make([]bpf.LBService, n), nil)
	case 40:
		_, err = m.BatchUpdate(keys, make([]bpf.LBBackendStats, n), nil)
	case 64:
		_, err = m.BatchUpdate(keys, make([]bpf.LBBackend, n), nil)
	default:
		_ = values
		err = fmt.Errorf("elements of %d bytes", m.ValueSize())
	}
	if err != nil {
		return fmt.Errorf("clear %v: %w", m, err)
	}
	return nil
}
