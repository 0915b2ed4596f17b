// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/stats"
)

const runHeader = uint32(bpf.LBLimitsHEADER_WORDS)

// runWords is how far the runs of services are apart.
const runWords = runHeader + servers/2

// servers is how many backends a service has; a reply's is its flow's number
// modulo that, as flows are opened in the order of their numbers.
const servers = 4

// family is one address family's scene: backends that follow each other behind
// one VIP.
type family struct {
	name        string
	client, vip netip.Addr
	backends    [servers]netip.Addr
	other       netip.Addr // nobody's, and those behind it
}

var families = [2]family{
	{"v4", netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.255.10"), addrs("198.19.0.1", "198.19.0.2", "198.19.0.3", "198.19.0.4"),
		netip.MustParseAddr("203.0.0.0")},
	{"v6", netip.MustParseAddr("fd00:c::c612:1"), netip.MustParseAddr("fd00:f::c612:ff0a"), addrs("fd00:e::c613:1", "fd00:e::c613:2", "fd00:e::c613:3", "fd00:e::c613:4"),
		netip.MustParseAddr("fd00:f::cb00:0")},
}

func addrs(s ...string) (out [servers]netip.Addr) {
	for i := range out {
		out[i] = netip.MustParseAddr(s[i])
	}
	return out
}

// serviceOf is the id of a scene's service; its
// backends have four ids that end with four times that.
func serviceOf(f family, proto lb.Protocol) uint32 {
	id := uint32(1)
	if f.name == "v6" {
		id += 2
	}
	if proto == lb.UDP {
		id++
	}
	return id
}

// fill writes one service for each family and protocol: rr over four backends.
func (b *bench) fill() error {
	for _, f := range families {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			svc := serviceOf(f, proto)
			if err := b.service(svc, f.vip, proto, 4*svc-3, f.backends[:]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// service writes one whose scheduler is rr; first is the id of its first backend.
func (b *bench) service(svc uint32, vip netip.Addr, proto lb.Protocol, first uint32, backends ...netip.Addr) error {
	base := svc * runWords
	for i, a := range backends {
		if err := b.backend(first+uint32(i), svc, a, proto); err != nil {
			return err
		}
		if i%2 == 0 {
			if err := b.lb.Slots.Put(base+runHeader+uint32(i/2), uint64(first)+uint64(i)|(uint64(first)+uint64(i)+1)<<32); err != nil {
				return err
			}
		}
	}
	word := uint64(base) | uint64(len(backends))<<32 | uint64(bpf.LBRuleRULE_CURSOR)<<56
	if err := b.lb.Services.Put(svc, bpf.LBService{Hash: uint64(svc), Pool: word}); err != nil {
		return err
	}
	return errors.Join(b.rewind(svc), b.vip(vip, proto, svc))
}

// rewind has a service's next flow go to its first backend.
func (b *bench) rewind(svc uint32) error { return b.lb.Slots.Put(svc*runWords, uint64(0)) }

func (b *bench) backend(id, svc uint32, a netip.Addr, proto lb.Protocol) error {
	at := netip.AddrPortFrom(a, 8080)
	b.backends.Write(id, backends.Record{Hash: uint64(id), Addr: at, Weight: 1, Service: svc, State: backends.Active})
	if err := bits.Put(b.lb.PeerBits, bits.Addr(a)); err != nil {
		return err
	}
	return bits.Put(b.lb.BackendBits, bits.Backend(at, proto))
}

func (b *bench) vip(a netip.Addr, proto lb.Protocol, svc uint32) error {
	if err := b.lb.Vips.Put(bpf.LBVipKey{Addr: a.As16(), Port: 80, Proto: uint8(proto)}, bpf.LBVip{Service: svc}); err != nil {
		return err
	}
	if err := b.lb.Vips.Put(bpf.LBVipKey{Addr: a.As16()}, bpf.LBVip{}); err != nil {
		return err
	}
	return bits.Put(b.lb.VipBits, bits.Addr(a))
}

// low is the last four bytes.
func low(a netip.Addr) uint32 {
	b := a.As16()
	return binary.BigEndian.Uint32(b[12:])
}

func frame(f family, proto lb.Protocol, dst netip.Addr) ([]byte, error) {
	return packet.Packet{Src: netip.AddrPortFrom(f.client, 1024), Dst: netip.AddrPortFrom(dst, 80), Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 64)}.Bytes()
}

// frameTo is one that comes in by a device.
func frameTo(at *place, f family, proto lb.Protocol, dst netip.Addr) ([]byte, error) {
	data, err := frame(f, proto, dst)
	if err == nil {
		copy(data, at.mac[:])
	}
	return data, err
}

// clear empties the flow table: by making room in it in batches.
func (b *bench) clear() error {
	keys := make([]bpf.LBFlowKey, 1<<16)
	values := make([]bpf.LBFlow, 1<<16)
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
	for svc := range serviceOf(families[1], lb.UDP) {
		if err := b.rewind(svc + 1); err != nil {
			return err
		}
	}
	return b.lb.HalfOpenEnds.Put(uint32(0), bpf.LBHalfOpenRing{})
}

// counted sums what the programs counted as sent to backends or back.
func (b *bench) counted() (uint64, error) {
	var n uint64
	err := stats.EachStats(b.lb.Stats, b.ids-1, func(_ uint32, s bpf.LBBackendStats) { n += s.InPackets + s.OutPackets })
	return n, err
}
