// SPDX-License-Identifier: Apache-2.0

// Package vips handles the hash that leads from a frontend to its service, and
// marks the addresses that are VIPs.
package vips

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Table is the map vips. One goroutine writes.
type Table struct {
	Map *ebpf.Map
	// Later, if it is not nil, collects what is written until its Flush.
	Later *Later
}

// Later collects elements of the map.
type Later = batch.Later[bpf.LBVipKey, bpf.LBVip]

// Len returns the number of entries that the map can hold.
func (t Table) Len() uint32 { return t.Map.MaxEntries() }

func key(f lb.Frontend) bpf.LBVipKey {
	return bpf.LBVipKey{Addr: f.Addr.Addr().As16(), Port: f.Addr.Port(), Proto: uint8(f.Protocol)}
}

// masquerades and policies are the flags of what a frontend says, by its number.
var (
	masquerades = [...]bpf.LBVipFlags{
		lb.MasqueradeNever: 0, lb.MasqueradeAlways: bpf.LBVipFlagsVIP_MASQUERADE,
		lb.MasqueradeOutsiders: bpf.LBVipFlagsVIP_MASQUERADE_OUTSIDERS, lb.MasqueradeNode: bpf.LBVipFlagsVIP_MASQUERADE_NODE,
	}
	policies = [...]bpf.LBVipFlags{
		lb.PolicyCluster: 0, lb.PolicyLocal: bpf.LBVipFlagsVIP_LOCAL,
		lb.PolicyLocalExternal: bpf.LBVipFlagsVIP_LOCAL | bpf.LBVipFlagsVIP_SHORT_CIRCUIT,
	}
)

func flags(f lb.Frontend) uint32 {
	out := masquerades[f.Masquerade] | policies[f.Policy]
	if f.Restricted {
		out |= bpf.LBVipFlagsVIP_RESTRICTED
	}
	return uint32(out)
}

// parse is the inverse of flags. Of flags that flags does not give it makes the
// last that fits.
func parse(have uint32, f *lb.Frontend) {
	for m, flag := range masquerades {
		if have&uint32(flag) == uint32(flag) {
			f.Masquerade = lb.Masquerade(m)
		}
	}
	for p, flag := range policies {
		if have&uint32(flag) == uint32(flag) {
			f.Policy = lb.Policy(p)
		}
	}
	f.Restricted = have&uint32(bpf.LBVipFlagsVIP_RESTRICTED) != 0
}

// Put leads a frontend to a service; an entry that is there changes its service
// at once, with no packet finding it absent.
func (t Table) Put(f lb.Frontend, service uint32) error {
	v := bpf.LBVip{Service: service, Flags: flags(f)}
	if err := t.Later.Put(t.Map, key(f), v); err != nil {
		return fmt.Errorf("write VIP %s to map %s: %w", f, t.Map, err)
	}
	return nil
}

// Delete removes a frontend, which may be absent.
func (t Table) Delete(f lb.Frontend) error {
	if err := t.Later.Delete(t.Map, key(f)); err != nil {
		return fmt.Errorf("delete VIP %s from map %s: %w", f, t.Map, err)
	}
	return nil
}

// Mark says that the address is a VIP.
func (t Table) Mark(addr netip.Addr) error {
	return t.Put(lb.Frontend{Addr: netip.AddrPortFrom(addr, 0)}, 0)
}

// Unmark takes back what Mark said.
func (t Table) Unmark(addr netip.Addr) error {
	return t.Delete(lb.Frontend{Addr: netip.AddrPortFrom(addr, 0)})
}

// Each yields the frontends, without the marks. Addresses are unmapped: IPv4
// where the map has ::ffff:a.b.c.d.
func Each(m *ebpf.Map, yield func(f lb.Frontend, service uint32)) error {
	return batch.Each(m, func(k bpf.LBVipKey, v *bpf.LBVip) error {
		if v.Service != 0 {
			addr := netip.AddrPortFrom(netip.AddrFrom16(k.Addr).Unmap(), k.Port)
			f := lb.Frontend{Protocol: lb.Protocol(k.Proto), Addr: addr}
			parse(v.Flags, &f)
			yield(f, v.Service)
		}
		return nil
	})
}
