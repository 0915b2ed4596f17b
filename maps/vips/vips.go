// SPDX-License-Identifier: Apache-2.0

// Package vips handles the hash that leads from a frontend to its service, and
// marks the addresses that are VIPs.
package vips

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Table is the map vips. One goroutine writes.
type Table struct{ Map *ebpf.Map }

// Len returns the number of entries that the map can hold.
func (t Table) Len() uint32 { return t.Map.MaxEntries() }

func key(f lb.Frontend) bpf.LBVipKey {
	return bpf.LBVipKey{Addr: f.Addr.Addr().As16(), Port: f.Addr.Port(), Proto: uint8(f.Protocol)}
}

// Put leads a frontend to a service; an entry that is there changes its service
// at once, with no packet finding it absent.
func (t Table) Put(f lb.Frontend, service uint32, m lb.Masquerade) error {
	v := bpf.LBVip{Service: service}
	if m == lb.MasqueradeAlways {
		v.Flags = uint32(bpf.LBVipFlagsVIP_MASQUERADE)
	}
	if err := t.Map.Put(key(f), v); err != nil {
		return fmt.Errorf("write VIP %s to map %s: %w", f, t.Map, err)
	}
	return nil
}

// Delete removes a frontend, which may be absent.
func (t Table) Delete(f lb.Frontend) error {
	if err := t.Map.Delete(key(f)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete VIP %s from map %s: %w", f, t.Map, err)
	}
	return nil
}

// Mark says that the address is a VIP.
func (t Table) Mark(addr netip.Addr) error {
	return t.Put(lb.Frontend{Addr: netip.AddrPortFrom(addr, 0)}, 0, lb.MasqueradeNever)
}

// Unmark takes back what Mark said.
func (t Table) Unmark(addr netip.Addr) error {
	return t.Delete(lb.Frontend{Addr: netip.AddrPortFrom(addr, 0)})
}

// Each yields the frontends, without the marks. Addresses are unmapped: IPv4
// where the map has ::ffff:a.b.c.d.
func Each(m *ebpf.Map, yield func(f lb.Frontend, service uint32, m lb.Masquerade)) error {
	return batch.Each(m, func(k bpf.LBVipKey, v *bpf.LBVip) error {
		if v.Service != 0 {
			addr := netip.AddrPortFrom(netip.AddrFrom16(k.Addr).Unmap(), k.Port)
			masquerade := lb.MasqueradeNever
			if v.Flags&uint32(bpf.LBVipFlagsVIP_MASQUERADE) != 0 {
				masquerade = lb.MasqueradeAlways
			}
			yield(lb.Frontend{Protocol: lb.Protocol(k.Proto), Addr: addr}, v.Service, masquerade)
		}
		return nil
	})
}
