// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// A port of a bridge sees all that crosses it; only what has the bridge's own
// address is for this machine.
func TestAPortTakesWhatIsForItsBridge(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		mac, other := [6]byte{2, 0, 0, 0, 0, 7}, [6]byte{2, 0, 0, 0, 0, 8}
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN, DstMAC: mac}
		p.do(p.Devices.Put(uint32(1), bpf.LBDevice{Mac: mac})) // no port
		p.want(p.TcIngress, in, next, in)
		p.do(p.Devices.Put(uint32(1), bpf.LBDevice{Mac: mac, Flags: uint8(bpf.LBDeviceFlagsDEVICE_PORT)}))
		in.DstMAC = other
		p.want(p.TcIngress, in, next, in)
		in.DstMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		p.want(p.TcIngress, in, next, in)
		in.DstMAC = mac
		out := in
		out.Dst = f.servers[0]
		p.want(p.TcIngress, in, next, out)
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

// The bridge receives what its port has translated: to it, that looks like a
// connection to the backend itself with the client's port.
func TestABridgeLeavesWhatItsPortTranslated(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.do(bits.Put(p.PeerBits, bits.Addr(f.servers[0].Addr())))
		p.ports(5000)
		p.picked(f, proto, f.client.Port(), packet.SYN)
		p.do(p.Devices.Put(uint32(1), bpf.LBDevice{Flags: uint8(bpf.LBDeviceFlagsDEVICE_BRIDGE)}))
		back := packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK}
		for range 2 { // before the backend's answer, and after it
			seen := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
			p.want(p.TcIngress, seen, next, seen)
			p.want(p.TcEgress, back, next, packet.Packet{Src: f.vip, Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK})
		}
	})
}
