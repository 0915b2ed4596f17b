// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// parts cuts a datagram to the VIP into fragments of size bytes.
func (p *programs) parts(f family, payload, size int, id uint32) [][]byte {
	p.t.Helper()
	frame, err := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.UDP, Payload: make([]byte, payload)}.Bytes()
	p.do(err)
	parts, err := packet.Fragment(frame, size, id)
	p.do(err)
	return parts
}

// Fragments that wait make room for newer ones. What was lost is counted when
// the first of the datagram comes, which goes on; a datagram that was not lost is
// whole.
func TestFragmentsThatWaitMakeRoomForNewerOnes(t *testing.T) {
	const ofOne = 64 // fragments of a datagram that may wait
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.UDP, 1)
		hold := func(parts [][]byte) {
			for _, part := range parts[1:] {
				if ret, _ := p.sendFrame(p.TcIngress, part); ret != drop {
					t.Fatalf("%s: verdict %d, want it kept", f.name, int32(ret))
				}
			}
		}
		old := p.parts(f, 2000, 512, 9)
		hold(old)
		var newest [][]byte
		for id := range uint32(4 * bpf.LBLimitsMAX_HELD / ofOne) {
			newest = p.parts(f, ofOne*8, 8, 100+id)
			hold(newest)
		}
		if d := p.drops(); len(d) != 0 {
			t.Errorf("%s: drops %v before anything was missed", f.name, d)
		}
		want := map[bpf.LBDropReason]uint64{bpf.LBDropReasonDROP_FRAGMENT: uint64(len(old) - 1)}
		for _, first := range [][]byte{old[0], newest[0]} {
			ret, out := p.sendFrame(p.TcIngress, first)
			if ret != next || bytes.Equal(out, first) {
				t.Errorf("%s: a first fragment: verdict %d, not translated", f.name, int32(ret))
			}
			if d := p.drops(); len(d) != 1 || d[bpf.LBDropReasonDROP_FRAGMENT] != want[bpf.LBDropReasonDROP_FRAGMENT] {
				t.Errorf("%s: drops %v, want %v", f.name, d, want)
			}
		}
	}
}

// More direct connections than are remembered fill no table that others need:
// the oldest are forgotten, and a flow from such a client's port is not kept
// apart from it.
func TestForgottenDirectConnections(t *testing.T) {
	const first = 10_000 // port
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		p.ports(5000, 5001, 5002)
		last := uint16(first + 3*p.Direct.MaxEntries())
		for n := uint16(first); n <= last; n++ {
			direct := packet.Packet{Src: port(f.client, n), Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.SYN}
			p.want(p.TcIngress, direct, next, direct)
		}
		if err := p.Flows.NextKey(nil, new(bpf.LBFlowKey)); !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Errorf("%s: direct connections are in the flow table: %v", f.name, err)
		}
		for _, c := range []struct {
			port uint16
			kept bool // apart
		}{{first, false}, {last, true}} {
			in := packet.Packet{Src: port(f.client, c.port), Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN}
			ret, out := p.send(p.TcIngress, in)
			got, err := packet.Parse(out)
			if ret != next || err != nil || got.Dst != f.servers[0] || (got.Src != in.Src) != c.kept {
				t.Errorf("%s: port %d: verdict %d, from %v to %v, %v; want another source port: %v", f.name, c.port, int32(ret), got.Src, got.Dst, err, c.kept)
			}
		}
		if d := p.drops(); len(d) != 0 {
			t.Errorf("%s: drops %v", f.name, d)
		}
	}
}
