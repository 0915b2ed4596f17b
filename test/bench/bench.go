// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/stats"
)

const next = 0xffffffff // TCX_NEXT

const runHeader = uint32(bpf.LBLimitsHEADER_WORDS)

// maxFlows is the size of the flow sets; the table has room for twice as many
// entries as the largest set has, and the same again.
const maxFlows = 1 << 20

type bench struct {
	lb      bpf.LBObjects
	wrap    wrapObjects
	runs    int
	packets int
	ids     uint32 // of backends: those below are in use
	only    *regexp.Regexp
}

// family is one address family's scene: 4 backends behind one VIP.
type family struct {
	name          string
	client, vip   netip.Addr
	backends      [4]netip.Addr
	clientHostLow uint32
}

var families = [2]family{
	{"v4", netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.255.10"), addrs("198.19.0.1", "198.19.0.2", "198.19.0.3", "198.19.0.4"), 0xc6120001},
	{"v6", netip.MustParseAddr("fd00:c::c612:1"), netip.MustParseAddr("fd00:f::c612:ff0a"), addrs("fd00:e::c613:1", "fd00:e::c613:2", "fd00:e::c613:3", "fd00:e::c613:4"), 0xc6120001},
}

func addrs(s ...string) (out [4]netip.Addr) {
	for i := range out {
		out[i] = netip.MustParseAddr(s[i])
	}
	return out
}

func newBench(runs, packets int) (*bench, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the memlock limit (run as root): %w", err)
	}
	b := &bench{runs: runs, packets: packets, ids: 17}
	spec, err := bpf.LoadLB()
	if err != nil {
		return nil, err
	}
	spec.Maps["flows"].MaxEntries = 4 * maxFlows
	if err := bpf.SizeStats(spec); err != nil {
		return nil, err
	}
	if err := bpf.Choose(spec); err != nil {
		return nil, err
	}
	if err := spec.LoadAndAssign(&b.lb, nil); err != nil {
		return nil, fmt.Errorf("load the programs (run as root): %w", err)
	}
	if err := loadWrapObjects(&b.wrap, nil); err != nil {
		b.lb.Close()
		return nil, fmt.Errorf("load the wrappers: %w", err)
	}
	return b, b.fill()
}

func (b *bench) close() {
	b.lb.Close()
	b.wrap.Close()
}

// fill writes one service for each family and protocol: rr over four backends.
func (b *bench) fill() error {
	id, svc := uint32(1), uint32(1)
	for _, f := range families {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			base := svc * 16
			ids := make([]uint32, 0, 4)
			for _, a := range f.backends {
				if err := b.backend(id, svc, a, proto); err != nil {
					return err
				}
				ids = append(ids, id)
				id++
			}
			for i, w := range []uint64{0, 0, uint64(ids[0]) | uint64(ids[1])<<32, uint64(ids[2]) | uint64(ids[3])<<32} {
				if err := b.lb.Slots.Put(base+uint32(i), w); err != nil {
					return err
				}
			}
			word := uint64(base) | 4<<32 | uint64(bpf.LBRuleRULE_CURSOR)<<56
			if err := b.lb.Services.Put(svc, bpf.LBService{Hash: uint64(svc), Pool: word}); err != nil {
				return err
			}
			if err := b.vip(f.vip, proto, svc); err != nil {
				return err
			}
			svc++
		}
	}
	return nil
}

func (b *bench) backend(id, svc uint32, a netip.Addr, proto lb.Protocol) error {
	be := bpf.LBBackend{Hash: uint64(id), Addr: a.As16(), Port: 8080, Weight: 1, Service: svc, State: uint8(bpf.LBBackendStateBACKEND_ACTIVE)}
	if err := backends.Put(b.lb.Backends, b.lb.BackendIds, id, be); err != nil {
		return err
	}
	return setBit(b.lb.BackendBits, bits.Backend(netip.AddrPortFrom(a, 8080), proto))
}

func (b *bench) vip(a netip.Addr, proto lb.Protocol, svc uint32) error {
	if err := b.lb.Vips.Put(bpf.LBVipKey{Addr: a.As16(), Port: 80, Proto: uint8(proto)}, bpf.LBVip{Service: svc}); err != nil {
		return err
	}
	if err := b.lb.Vips.Put(bpf.LBVipKey{Addr: a.As16()}, bpf.LBVip{}); err != nil {
		return err
	}
	return setBit(b.lb.VipBits, bits.Addr(a))
}

func setBit(m *ebpf.Map, bit uint32) error {
	var w uint64
	if err := m.Lookup(bit>>6, &w); err != nil {
		return err
	}
	return m.Put(bit>>6, w|1<<(bit&63))
}

// low is the last four bytes as they lie in memory.
func low(a netip.Addr) uint32 {
	b := a.As16()
	return binary.LittleEndian.Uint32(b[12:])
}

func frame(f family, proto lb.Protocol, dst netip.Addr) ([]byte, error) {
	return packet.Packet{Src: netip.AddrPortFrom(f.client, 1024), Dst: netip.AddrPortFrom(dst, 80), Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 64)}.Bytes()
}

// scene points the wrappers at one flow set.
func (b *bench) scene(f family, other netip.Addr, port uint32, flows int, flags packet.Flag) error {
	v := &b.wrap.wrapVariables
	for _, s := range []struct {
		v     *ebpf.Variable
		value any
	}{
		{v.FlowsMask, uint32(flows - 1)}, {v.ServiceAddr, low(other)}, {v.ServicePort, port}, {v.ClientBase, f.clientHostLow},
		{v.TcpFlags, uint8(flags)}, {v.Counter, uint32(0)},
	} {
		if err := s.v.Set(s.value); err != nil {
			return err
		}
	}
	return nil
}

// clear empties the flow table: by making room in it in batches.
func (b *bench) clear() error {
	keys := make([]bpf.LBFlowKey, 4096)
	values := make([]bpf.LBFlow, 4096)
	for {
		var cursor ebpf.MapBatchCursor
		n, err := b.lb.Flows.BatchLookup(&cursor, keys, values, nil)
		if n == 0 {
			return b.forget()
		}
		if _, derr := b.lb.Flows.BatchDelete(keys[:n], nil); derr != nil {
			return fmt.Errorf("clear flows: %w", errors.Join(derr, err))
		}
	}
}

// forget makes the counts what an empty table has.
func (b *bench) forget() error {
	for id := uint32(1); id < b.ids; id++ {
		if err := b.lb.Load.Put(id, bpf.LBBackendLoad{}); err != nil {
			return err
		}
	}
	return b.lb.HalfOpenEnds.Put(uint32(0), bpf.LBHalfOpenRing{})
}

// inPackets sums what the programs counted as sent to backends or back.
func (b *bench) counted() (in, out uint64, err error) {
	err = stats.EachStats(b.lb.Stats, b.ids-1, func(_ uint32, s bpf.LBBackendStats) {
		in += s.InPackets
		out += s.OutPackets
	})
	return in, out, err
}
