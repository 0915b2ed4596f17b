// SPDX-License-Identifier: Apache-2.0

// Package flows reads the flow table. Only programs write it: a key that user
// space looked up may belong to another flow by the time it would be deleted.
package flows

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Table is the map flows.
type Table struct{ Map *ebpf.Map }

// EachForward yields the forward entries (position E1), in no order.
func (t Table) EachForward(yield func(k *bpf.LBFlowKey, f *bpf.LBFlow) error) error {
	return batch.Each(t.Map, func(k bpf.LBFlowKey, f *bpf.LBFlow) error {
		if bpf.LBPosition(k.Position) != bpf.LBPositionPOSITION_E1 {
			return nil
		}
		return yield(&k, f)
	})
}

// Reply returns the reply entry (position E4) of a forward entry; false if
// there is none.
func (t Table) Reply(k *bpf.LBFlowKey, f *bpf.LBFlow) (bpf.LBFlow, bool, error) {
	var r bpf.LBFlow
	err := t.Map.Lookup(ReplyKey(k, f), &r)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("look up in map %s: %w", t.Map, err)
	}
	// Another VIP's flow may have the same client and backend.
	return r, r.Addr == k.Daddr && r.Port == k.Dport, nil
}

// ReplyKey returns the key under which the backend's packets are seen.
func ReplyKey(k *bpf.LBFlowKey, f *bpf.LBFlow) bpf.LBFlowKey {
	return bpf.LBFlowKey{
		Saddr: f.Addr, Daddr: k.Saddr, Sport: f.Port, Dport: k.Sport,
		Proto: k.Proto, Position: uint8(bpf.LBPositionPOSITION_E4),
	}
}

// AddrPort makes a netip.AddrPort of an address as the maps hold it.
func AddrPort(addr [16]byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}
