// SPDX-License-Identifier: Apache-2.0

// Package affinity reads the map affinity: where clients of services with
// affinity go. The programs write it.
package affinity

import (
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Entry is one client, or network of clients, of a service.
type Entry struct {
	// Client is the address with all bits 0 that do not count.
	Client      netip.Addr
	ServiceHash uint64
	BackendHash uint64
	// Expires is when it ends, in jiffies64, unless flows of it live.
	Expires uint64
	// Assured says that a backend answered.
	Assured bool
}

// Each yields all entries, those that have ended included, in no order.
func Each(m *ebpf.Map, yield func(Entry) error) error {
	return batch.Each(m, func(k bpf.LBAffinityKey, v *bpf.LBAffinityEntry) error {
		return yield(Entry{
			Client:      netip.AddrFrom16(k.Client).Unmap(),
			ServiceHash: k.ServiceHash,
			BackendHash: v.BackendHash,
			Expires:     v.Expires,
			Assured:     v.Assured != 0,
		})
	})
}
