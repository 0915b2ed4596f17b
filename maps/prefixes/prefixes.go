// SPDX-License-Identifier: Apache-2.0

// Package prefixes handles the maps of networks: where this machine's pods are, from
// where services take connections, and where VIPs are taken from.
package prefixes

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// bits is how many of a mapped address belong to a prefix.
func bits(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return uint32(128 - 32 + p.Bits())
	}
	return uint32(p.Bits())
}

func prefix(addr [16]byte, len uint32) netip.Prefix {
	a := netip.AddrFrom16(addr)
	if a.Is4In6() && len >= 128-32 {
		return netip.PrefixFrom(a.Unmap(), int(len)-(128-32))
	}
	return netip.PrefixFrom(a, int(len))
}

// Pods is the map prefixes. One goroutine writes.
type Pods struct{ Map *ebpf.Map }

// Sync makes the map, which holds the networks of have, hold those of want. On an
// error it may hold some of both.
func (t Pods) Sync(have, want []netip.Prefix) error {
	return change(t.Map, have, want, func(p netip.Prefix) any {
		return bpf.LBPrefixKey{Len: bits(p), Addr: p.Masked().Addr().As16()}
	})
}

// Sources is the map source_ranges. One goroutine writes.
type Sources struct{ Map *ebpf.Map }

// Sync makes a service, by its index, that takes connections from have take them
// from want: none is refused meanwhile that both take. On an error it may take
// them from both.
func (t Sources) Sync(service uint32, have, want []netip.Prefix) error {
	return change(t.Map, have, want, func(p netip.Prefix) any {
		return bpf.LBSourceKey{Len: 32 + bits(p), Service: service, Addr: p.Masked().Addr().As16()}
	})
}

// Each yields what each service takes connections from. A trie has no batch lookup.
func (t Sources) Each(yield func(service uint32, p netip.Prefix)) error {
	var k bpf.LBSourceKey
	var v uint32
	it := t.Map.Iterate()
	for it.Next(&k, &v) {
		yield(k.Service, prefix(k.Addr, k.Len-32))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", t.Map, err)
	}
	return nil
}

// change adds what is missing, then deletes what is too much.
func change(m *ebpf.Map, have, want []netip.Prefix, key func(netip.Prefix) any) error {
	keep := make(map[any]bool, len(want))
	there := make(map[any]bool, len(have))
	for _, p := range have {
		there[key(p)] = true
	}
	for _, p := range want {
		k := key(p)
		keep[k] = true
		if there[k] {
			continue
		}
		if err := m.Put(k, uint32(1)); err != nil {
			return fmt.Errorf("write network %s to map %s: %w", p, m, err)
		}
	}
	for _, p := range have {
		if k := key(p); !keep[k] {
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete network %s from map %s: %w", p, m, err)
			}
		}
	}
	return nil
}

// MaxServiceRanges is how many networks VIPs may be taken from.
const MaxServiceRanges = len(bpf.LBServiceRanges{}.Addr)

// WriteServiceRanges says where VIPs are taken from, in one update of the map
// service_ranges.
func WriteServiceRanges(m *ebpf.Map, ranges []netip.Prefix) error {
	if len(ranges) > MaxServiceRanges {
		return fmt.Errorf("%d ranges of VIPs: packets to addresses that no service has are dropped in at most %d", len(ranges), MaxServiceRanges)
	}
	v := bpf.LBServiceRanges{Count: uint32(len(ranges))}
	for i, p := range ranges {
		v.Addr[i] = p.Masked().Addr().As16()
		for b := range bits(p) {
			v.Mask[i][b/8] |= 0x80 >> (b % 8)
		}
	}
	if err := m.Put(uint32(0), v); err != nil {
		return fmt.Errorf("write map %s: %w", m, err)
	}
	return nil
}
