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

// Table is the map flows, and while it grows flows_next. Of a key that is live in
// Map that is the entry, else what Next has: bpf/next.h.
type Table struct {
	Map  *ebpf.Map
	Next *ebpf.Map // nil: it did not grow when the table was opened
	// Again looks once more if there is a Next, and returns it, or nil. It is
	// called often if there is none. nil: nothing grows.
	Again func() (*ebpf.Map, error)
}

func (t Table) next() (*ebpf.Map, error) {
	if t.Next != nil || t.Again == nil {
		return t.Next, nil
	}
	return t.Again()
}

// EachForward yields the forward entries (position E1), in no order. One that is
// there all the time is yielded once, moved or not meanwhile: where it came from,
// if it came from the smaller table.
func (t Table) EachForward(yield func(k *bpf.LBFlowKey, f *bpf.LBFlow) error) error {
	err := eachForward(t.Map, func(k *bpf.LBFlowKey, f *bpf.LBFlow) error {
		if bpf.LBFlowState(f.State) != bpf.LBFlowStateSTATE_MOVED {
			return yield(k, f)
		}
		moved, ok, err := t.moved(k)
		if err != nil || !ok || !cameOver(&moved) {
			return err
		}
		return yield(k, &moved)
	})
	if err != nil {
		return err
	}
	next, err := t.next() // only now: it may have begun to grow meanwhile
	if err != nil || next == nil {
		return err
	}
	return eachForward(next, func(k *bpf.LBFlowKey, f *bpf.LBFlow) error {
		if cameOver(f) {
			return nil
		}
		return yield(k, f)
	})
}

func eachForward(m *ebpf.Map, yield func(k *bpf.LBFlowKey, f *bpf.LBFlow) error) error {
	return batch.Each(m, func(k bpf.LBFlowKey, f *bpf.LBFlow) error {
		if bpf.LBPosition(k.Position) != bpf.LBPositionPOSITION_E1 {
			return nil
		}
		return yield(&k, f)
	})
}

// cameOver reports whether an entry of Next was moved there.
func cameOver(f *bpf.LBFlow) bool { return f.Flags&uint8(bpf.LBFlowFlagsFLOW_MOVED) != 0 }

// moved returns what Next has of a key that was moved; false if nothing.
func (t Table) moved(k *bpf.LBFlowKey) (f bpf.LBFlow, ok bool, err error) {
	next, err := t.next()
	if err != nil || next == nil {
		return f, false, err
	}
	ok, err = get(next, k, &f)
	f.State &^= uint8(bpf.LBFlowStateSTATE_PENDING) // the programs see it so
	return f, ok, err
}

// get looks up an entry, dead ones included; false if there is none.
func get(m *ebpf.Map, k *bpf.LBFlowKey, f *bpf.LBFlow) (bool, error) {
	err := m.Lookup(k, f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up in map %s: %w", m, err)
	}
	return true, nil
}

// Counted reports whether a forward entry counts in the load of the backend that
// its hint names, whoever that is now, and as what: the programs move a count
// with the hint and with the state, so it stands where these say.
func Counted(f *bpf.LBFlow) (active, counted bool) {
	if f.Flags&uint8(bpf.LBFlowFlagsFLOW_DIRECT) != 0 {
		return false, false
	}
	switch s := bpf.LBFlowState(f.State); s {
	case bpf.LBFlowStateSTATE_ESTABLISHED, bpf.LBFlowStateSTATE_SYN_SENT, bpf.LBFlowStateSTATE_SYN_RECV, bpf.LBFlowStateSTATE_SYNACK:
		return true, true
	default:
		return false, s < bpf.LBFlowStateSTATE_REPLY
	}
}

// Reply returns the reply entry (position E4) of a forward entry; false if
// there is none.
func (t Table) Reply(k *bpf.LBFlowKey, f *bpf.LBFlow) (bpf.LBFlow, bool, error) {
	rk, ok, err := t.replyKey(k, f)
	if err != nil || !ok {
		return bpf.LBFlow{}, false, err
	}
	r, ok, err := t.lookup(rk)
	// Another VIP's flow may have the same client and backend.
	return r, ok && r.Addr == k.Daddr && r.Port == k.Dport, err
}

// Source returns what the backend sees as the client of a forward entry whose
// reply entry is r: the client, another port of it, or this node. Invalid: not
// decided yet, or no more.
func (t Table) Source(k *bpf.LBFlowKey, f, r *bpf.LBFlow) (netip.AddrPort, error) {
	rk, ok, err := t.replyKey(k, f)
	if err != nil || !ok {
		return netip.AddrPort{}, err
	}
	if r.Flags&uint8(bpf.LBFlowFlagsFLOW_MASQUERADE) == 0 {
		return AddrPort(rk.Daddr, rk.Dport), nil
	}
	e2, ok, err := t.lookup(bpf.LBFlowKey{
		Saddr: rk.Daddr, Daddr: rk.Saddr, Sport: rk.Dport, Dport: rk.Sport,
		Proto: rk.Proto, Position: uint8(bpf.LBPositionPOSITION_E2),
	})
	if err != nil || !ok {
		return netip.AddrPort{}, err
	}
	return AddrPort(e2.Addr, e2.Port), nil
}

// replyKey is ReplyKey, with the port that a resourced flow has at its backend.
func (t Table) replyKey(k *bpf.LBFlowKey, f *bpf.LBFlow) (bpf.LBFlowKey, bool, error) {
	rk := ReplyKey(k, f)
	if f.Flags&uint8(bpf.LBFlowFlagsFLOW_RESOURCED) == 0 {
		return rk, true, nil
	}
	at := *k
	at.Position = uint8(bpf.LBPositionPOSITION_R1)
	r1, ok, err := t.lookup(at)
	rk.Dport = r1.Port
	return rk, ok, err
}

// lookup returns a live entry; false if there is none.
func (t Table) lookup(k bpf.LBFlowKey) (bpf.LBFlow, bool, error) {
	var e bpf.LBFlow
	live := func() bool { return bpf.LBFlowState(e.State) < bpf.LBFlowStateSTATE_DEAD }
	ok, err := get(t.Map, &k, &e)
	if err != nil || ok && live() {
		return e, ok, err
	}
	if ok && bpf.LBFlowState(e.State) == bpf.LBFlowStateSTATE_MOVED {
		e, ok, err = t.moved(&k)
		return e, ok && live(), err
	}
	next, err := t.next()
	if err != nil || next == nil {
		return e, false, err
	}
	ok, err = get(next, &k, &e) // what is pending there is none
	return e, ok && live(), err
}

// ReplyKey returns the key under which the backend's packets are seen, unless
// the flow is resourced.
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
