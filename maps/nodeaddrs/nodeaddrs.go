// SPDX-License-Identifier: Apache-2.0

// Package nodeaddrs handles the hash of this machine's addresses.
package nodeaddrs

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Table is the map node_addrs. One goroutine writes.
type Table struct{ Map *ebpf.Map }

// Addr is an address that is assigned to a device of this network namespace.
type Addr struct {
	netip.Addr
	// Ports says that node ports are served there.
	Ports bool
}

func (a Addr) flags() uint32 {
	out := bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED
	if a.Ports {
		out |= bpf.LBNodeAddrFlagsNODE_ADDR_PORTS
	}
	return uint32(out)
}

// Sync makes the map hold exactly the given addresses, and returns which came and
// went. It goes on after an error and returns all.
func (t Table) Sync(addrs []Addr) (added, removed []netip.Addr, err error) {
	want := make(map[[16]byte]uint32, len(addrs))
	for _, a := range addrs {
		want[a.As16()] = a.flags()
	}
	var errs []error
	have := make(map[[16]byte]uint32)
	err = batch.Each(t.Map, func(a [16]byte, flags *uint32) error {
		have[a] = *flags
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for a := range have { // first: what is added may need their room
		if want[a] != 0 {
			continue
		}
		if err := t.Map.Delete(a); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete address %s from map %s: %w", netip.AddrFrom16(a).Unmap(), t.Map, err))
			continue
		}
		removed = append(removed, netip.AddrFrom16(a).Unmap())
	}
	for a, flags := range want {
		if have[a] == flags {
			continue
		}
		if err := t.Map.Put(a, flags); err != nil {
			errs = append(errs, fmt.Errorf("write address %s to map %s: %w", netip.AddrFrom16(a).Unmap(), t.Map, err))
			continue
		}
		if have[a] == 0 {
			added = append(added, netip.AddrFrom16(a).Unmap())
		}
	}
	return added, removed, errors.Join(errs...)
}
