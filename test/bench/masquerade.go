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
)

// The masqueraded scene: one flow, from port 1024, the wrapper's first, to a
// backend with the same port; masquerading has one port to give.
var (
	masqVIP     = netip.MustParseAddr("198.18.255.11")
	masqBackend = netip.MustParseAddr("198.19.0.9")
	masqNode    = netip.MustParseAddr("198.20.0.1")
)

const (
	masqService, masqID = 9, 99
	firstPort, masqPort = 1024, 5000
)

// masquerade measures what a masqueraded flow pays beside the other two
// rewrites: at egress to the backend, and when the reply comes in.
func (b *bench) masquerade() ([]row, error) {
	if err := b.fillMasquerade(); err != nil {
		return nil, err
	}
	f := families[0]
	data, err := frame(f, lb.TCP, masqVIP)
	if err != nil {
		return nil, err
	}
	forward := f
	forward.client = masqBackend // what the wrapper varies: here the backend
	client, server, node := netip.AddrPortFrom(f.client, firstPort), netip.AddrPortFrom(masqBackend, firstPort), netip.AddrPortFrom(masqNode, masqPort)
	out := scene{f: forward, other: f.client, port: firstPort, flows: 1, flags: packet.ACK}
	in := scene{f: forward, other: masqNode, port: masqPort, flows: 1, flags: packet.ACK}
	// a SYN in and out makes the entries; what is measured is what they do
	for _, hop := range []hop{
		{b.ingress(), b.lb.TcIngress, scene{f: f, other: masqVIP, port: 80, flows: 1, flags: packet.SYN}, client, server},
		{b.egress(), b.lb.TcEgress, out, node, server},
		{b.ingress(), b.lb.TcIngress, in, server, client},
	} {
		if err := b.check(hop, data); err != nil {
			return nil, err
		}
	}
	return b.tryAll(
		trial{name: "masqueraded TCP v4, leaving", hook: b.egress(), prog: b.lb.TcEgress, frame: data, want: next, scene: out},
		trial{name: "masqueraded TCP v4, reply coming in", hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next, scene: in},
	)
}

// hop is one packet of a scene, and what it must go on as.
type hop struct {
	hook     hook
	prog     *ebpf.Program
	scene    scene
	src, dst netip.AddrPort
}

func (b *bench) check(h hop, data []byte) error {
	if err := errors.Join(b.install(h.hook, h.prog), b.scene(h.scene)); err != nil {
		return err
	}
	opts := ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256)}
	ret, err := h.hook.wrapper.Run(&opts)
	if err != nil || ret != next {
		return fmt.Errorf("masqueraded packet: verdict %d: %w", int32(ret), err)
	}
	out := opts.DataOut[14:]
	src, dst := ends(out)
	if src != h.src || dst != h.dst {
		return fmt.Errorf("masqueraded packet goes on as %s -> %s, want %s -> %s: not measuring what it should", src, dst, h.src, h.dst)
	}
	return nil
}

// ends reads an IPv4 packet; the wrappers do not keep its checksums right.
func ends(ip []byte) (src, dst netip.AddrPort) {
	at := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[addr:addr+4])), binary.BigEndian.Uint16(ip[port:]))
	}
	return at(12, 20), at(16, 22)
}

func (b *bench) fillMasquerade() error {
	at := netip.AddrPortFrom(masqBackend, firstPort)
	b.backends.Write(masqID, backends.Record{Hash: masqID, Addr: at, Weight: 1, Service: masqService, State: backends.Active})
	base := uint32(masqService * 16)
	for _, put := range []struct {
		m          *ebpf.Map
		key, value any
	}{
		{b.lb.Slots, base, uint64(0)},
		{b.lb.Slots, base + runHeader, uint64(masqID)},
		{b.lb.Services, uint32(masqService), bpf.LBService{Hash: masqService, Pool: uint64(base) | 1<<32 | uint64(bpf.LBRuleRULE_CURSOR)<<56}},
		{b.lb.Vips, bpf.LBVipKey{Addr: masqVIP.As16(), Port: 80, Proto: uint8(lb.TCP)}, bpf.LBVip{Service: masqService, Flags: uint32(bpf.LBVipFlagsVIP_MASQUERADE)}},
		{b.lb.Vips, bpf.LBVipKey{Addr: masqVIP.As16()}, bpf.LBVip{}},
		{b.lb.Devices, uint32(1), bpf.LBDevice{Addr4: masqNode.As16()}}, // test runs are on lo
		{b.lb.MasqPorts, uint32(0), uint64(1)},
		{b.lb.MasqPorts, uint32(1), uint64(masqPort)},
	} {
		if err := put.m.Put(put.key, put.value); err != nil {
			return fmt.Errorf("fill map %s: %w", put.m, err)
		}
	}
	return errors.Join(bits.Put(b.lb.VipBits, bits.Addr(masqVIP)), bits.Put(b.lb.PeerBits, bits.Addr(masqBackend)), bits.Put(b.lb.PeerBits, bits.Addr(masqNode)),
		bits.Put(b.lb.BackendBits, bits.Backend(at, lb.TCP)), bits.Put(b.lb.MasqBits, bits.Backend(at, lb.TCP)))
}
