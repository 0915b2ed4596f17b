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

// Sync makes the map hold exactly the given addresses, which are assigned to
// devices of this network namespace, and returns what changed. It goes on after
// an error and returns all.
func (t Table) Sync(addrs []netip.Addr) (added, removed []netip.Addr, err error) {
	want := make(map[[16]byte]bool, len(addrs))
	for _, a := range addrs {
		want[a.As16()] = true
	}
	var errs []error
	have := make(map[[16]byte]bool)
	err = batch.Each(t.Map, func(a [16]byte, _ *uint32) error {
		have[a] = true
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for a := range have { // first: what is added may need their room
		if want[a] {
			continue
		}
		if err := t.Map.Delete(a); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete address %s from map %s: %w", netip.AddrFrom16(a).Unmap(), t.Map, err))
			continue
		}
		removed = append(removed, netip.AddrFrom16(a).Unmap())
	}
	for a := range want {
		if have[a] {
			continue
		}
		if err := t.Map.Put(a, uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)); err != nil {
			errs = append(errs, fmt.Errorf("write address %s to map %s: %w", netip.AddrFrom16(a).Unmap(), t.Map, err))
			continue
		}
		added = append(added, netip.AddrFrom16(a).Unmap())
	}
	return added, removed, errors.Join(errs...)
}
