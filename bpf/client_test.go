// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// flagged gives a frontend these flags alone.
func (p *programs) flagged(f family, proto lb.Protocol, flags bpf.LBVipFlags) {
	p.t.Helper()
	k := bpf.LBVipKey{Addr: f.vip.Addr().As16(), Port: f.vip.Port(), Proto: uint8(proto)}
	p.do(p.Vips.Put(k, bpf.LBVip{Service: 1, Flags: uint32(flags)}))
}

// sentBy says what the device of all test runs is.
func (p *programs) sentBy(flags bpf.LBDeviceFlags) {
	p.t.Helper()
	var d bpf.LBDevice
	p.do(p.Devices.Lookup(uint32(1), &d))
	d.Flags = uint8(flags)
	p.do(p.Devices.Put(uint32(1), d))
}

// Where pods have no networks of their own, the device that they send by tells.
func TestAPodOfAPodsDeviceKeepsItsSource(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.masquerade(f, nodes[f.name], proto)
		p.ports(5000)
		p.flagged(f, proto, bpf.LBVipFlagsVIP_MASQUERADE_OUTSIDERS)
		for _, tc := range []struct {
			device bpf.LBDeviceFlags
			client uint16
			masq   bool
		}{{0, 20001, true}, {bpf.LBDeviceFlagsDEVICE_POD, 20002, false}, {bpf.LBDeviceFlagsDEVICE_BRIDGE, 20003, true},
			{bpf.LBDeviceFlagsDEVICE_POD | bpf.LBDeviceFlagsDEVICE_BRIDGE, 20004, false}} {
			p.sentBy(tc.device)
			p.ports(tc.client + 1000)
			in := packet.Packet{Src: port(f.client, tc.client), Dst: f.vip, Protocol: proto, Flags: packet.SYN}
			out, ok := p.through(in)
			want := in.Src
			if tc.masq {
				want = nodePort(f, tc.client+1000)
			}
			if !ok || out.Src != want || out.Dst != f.servers[0] {
				t.Errorf("device flags %d: left as %v -> %v (%v), want from %v", tc.device, out.Src, out.Dst, ok, want)
			}
		}
	})
}

func TestAPodOfAPodsDeviceHasAllBackends(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		var s bpf.LBService
		p.do(p.Services.Lookup(uint32(1), &s))
		s.Local = uint64(bpf.LBRuleRULE_CURSOR)<<56 | uint64(bpf.LBRuleFlagsRULE_EMPTY_DROP)<<60
		p.do(p.Services.Put(uint32(1), s))
		p.do(p.Devices.Put(uint32(1), bpf.LBDevice{}))
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN}
		p.flagged(f, proto, bpf.LBVipFlagsVIP_LOCAL|bpf.LBVipFlagsVIP_SHORT_CIRCUIT)
		p.want(p.TcIngress, in, drop, in)
		p.sentBy(bpf.LBDeviceFlagsDEVICE_POD)
		out := in
		out.Dst = f.servers[0]
		p.want(p.TcIngress, in, next, out)
		in.Src = port(f.client, 20002) // a pod has no others by internal policy Local
		p.flagged(f, proto, bpf.LBVipFlagsVIP_LOCAL)
		p.want(p.TcIngress, in, drop, in)
		if d := p.drops(); d[bpf.LBDropReasonDROP_NO_LOCAL] != 2 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
	})
}

// A pod that is the node's, by its address: what it sends has a pod's terms.
func TestAPodIsAPodAlsoWithAnAddressOfTheNode(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.masquerade(f, nodes[f.name], proto)
		p.ports(5000)
		p.flagged(f, proto, bpf.LBVipFlagsVIP_MASQUERADE_NODE)
		p.do(p.NodeAddrs.Put(f.client.Addr().As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)))
		for i, prefix := range []bool{true, false} { // the trie has the address, or has not
			k := bpf.LBPrefixKey{Len: 128, Addr: f.client.Addr().As16()}
			if prefix {
				p.do(p.Prefixes.Put(k, uint32(1)))
			} else {
				p.do(p.Prefixes.Delete(k))
			}
			in := packet.Packet{Src: port(f.client, uint16(20000+i)), Dst: f.vip, Protocol: proto, Flags: packet.SYN}
			if out, ok := p.through(in); !ok || (out.Src == in.Src) != prefix {
				t.Errorf("a pod's network %v: left as %v -> %v (%v)", prefix, out.Src, out.Dst, ok)
			}
		}
	})
}
