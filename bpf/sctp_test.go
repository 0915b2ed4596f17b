// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// cookieAck is a chunk, without which there is no packet of SCTP (RFC 9260,
// section 3.3.12).
var cookieAck = []byte{11, 0, 0, 4}

// TestMasqueradedSCTPKeepsTheClientsPort: so the second client of that port
// finds none, whatever others are free.
func TestMasqueradedSCTPKeepsTheClientsPort(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		server := netip.AddrPortFrom(f.servers[0].Addr(), f.vip.Port())
		p.backend(1, server, 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.SCTP, 1)
		f.servers[0] = server
		p.masquerade(f, nodes[f.name], lb.SCTP)
		p.ports(5000, 5001)
		node := nodePort(f, f.client.Port())
		for range 2 {
			in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.SCTP, Payload: cookieAck}
			out, ok := p.through(in)
			if !ok || out.Src != node || out.Dst != server {
				t.Fatalf("%s: left as %v -> %v (%v), want %v -> %v", f.name, out.Src, out.Dst, ok, node, server)
			}
			out, ok = p.through(packet.Packet{Src: server, Dst: node, Protocol: lb.SCTP, Payload: cookieAck})
			if !ok || out.Src != f.vip || out.Dst != f.client {
				t.Fatalf("%s: the answer came out as %v -> %v (%v)", f.name, out.Src, out.Dst, ok)
			}
		}
		other := netip.AddrPortFrom(f.client.Addr().Next(), f.client.Port())
		if out, ok := p.through(packet.Packet{Src: other, Dst: f.vip, Protocol: lb.SCTP, Payload: cookieAck}); ok {
			t.Errorf("%s: the other client of this port left as %v", f.name, out.Src)
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_NO_PORT] != 1 || len(d) != 1 {
			t.Errorf("%s: drops %v", f.name, d)
		}
	}
}

// TestSCTPOfTakenTuplesIsRefused: another port would need another checksum.
func TestSCTPOfTakenTuplesIsRefused(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		server := netip.AddrPortFrom(f.servers[0].Addr(), f.vip.Port())
		p.backend(1, server, 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.ports(5000, 5001)
		other := netip.AddrPortFrom(f.vip.Addr().Next(), f.vip.Port())
		p.vip(f.vip, lb.SCTP, 1)
		p.vip(other, lb.SCTP, 1)
		if _, ok := p.through(packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.SCTP, Payload: cookieAck}); !ok {
			t.Fatalf("%s: the first VIP is not served", f.name)
		}
		if out, ok := p.through(packet.Packet{Src: f.client, Dst: other, Protocol: lb.SCTP, Payload: cookieAck}); ok {
			t.Errorf("%s: the second VIP went on as %v -> %v", f.name, out.Src, out.Dst)
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_REPLY_TAKEN] != 1 || len(d) != 1 {
			t.Errorf("%s: drops %v", f.name, d)
		}
	}
}
