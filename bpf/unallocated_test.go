// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// ranges says where VIPs are taken from.
func (p *programs) ranges(list ...string) {
	p.t.Helper()
	v := bpf.LBServiceRanges{Count: uint32(len(list))}
	for i, s := range list {
		n := netip.MustParsePrefix(s)
		v.Addr[i] = n.Addr().As16()
		bits := n.Bits() + 128 - n.Addr().BitLen()
		for b := range bits {
			v.Mask[i][b/8] |= 0x80 >> (b % 8)
		}
	}
	p.do(p.ServiceRanges.Put(uint32(0), v))
}

// to are packets of all sorts to an address.
func to(t *testing.T, f family, a netip.Addr) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, p := range map[string]packet.Packet{
		"a SYN":         {Protocol: lb.TCP, Flags: packet.SYN},
		"an ACK":        {Protocol: lb.TCP, Flags: packet.ACK},
		"a datagram":    {Protocol: lb.UDP, Payload: []byte("x")},
		"an SCTP chunk": {Protocol: lb.SCTP, Payload: []byte("four")},
	} {
		p.Src, p.Dst = f.client, netip.AddrPortFrom(a, f.vip.Port())
		frame, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		out[name] = frame
	}
	gre, cut := append([]byte(nil), out["a datagram"]...), append([]byte(nil), out["a SYN"]...)
	proto, length := 14+9, 14+2
	if f.name == "ipv6" {
		proto, length = 14+6, 14+4
	}
	gre[proto] = 47
	out["another protocol"] = gre
	cut[length+1] -= 10 // less than a TCP header
	out["a cut off segment"] = cut
	ping := packet.ICMPError{Type: 8, Src: f.client.Addr(), Dst: a, Quoted: make([]byte, 56)}
	if f.name == "ipv6" {
		ping.Type = 128
	}
	out["a ping"] = ping.Bytes()
	for _, k := range kinds(f)[:2] {
		about := packet.Packet{Src: netip.AddrPortFrom(a, 80), Dst: f.client, Protocol: lb.TCP, Flags: packet.ACK}
		out["an error about no flow"] = errorAbout(t, k, router[f.name], a, about, 48).Bytes()
	}
	return out
}

// wantAll sends all sorts of packets to an address.
func (p *programs) wantAll(f family, a netip.Addr, verdict uint32, why string) {
	p.t.Helper()
	for name, frame := range to(p.t, f, a) {
		ret, out := p.sendFrame(p.TcIngress, frame)
		if ret != verdict || string(out) != string(frame) {
			p.t.Errorf("%s, %s to %s: verdict %d, want %d, unchanged: %v", why, name, a, int32(ret), int32(verdict), string(out) == string(frame))
		}
	}
}

// A bitmap's bit may be another address's: that makes nobody's address no service's.
func TestAnUnallocatedAddressIsDroppedWhoseverBitItHas(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.ranges("198.18.255.0/24", "fd00:f::/112")
		a := f.vip.Addr()
		ours := func(flags uint32) { p.do(p.NodeAddrs.Put(a.As16(), flags)) }
		want := uint64(0)
		for _, perhaps := range []struct {
			why  string
			maps []*ebpf.Map
		}{{"no bit", nil}, {"a VIP's bit", []*ebpf.Map{p.VipBits}}, {"a VIP's bit and a backend's", []*ebpf.Map{p.PeerBits}}} {
			for _, m := range perhaps.maps {
				p.do(bits.Put(m, bits.Addr(a)))
			}
			p.wantAll(f, a, drop, f.name+", "+perhaps.why)
			want += uint64(len(to(t, f, a)))
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_UNALLOCATED] != want || len(d) != 1 {
			t.Errorf("%s: drops %v, want %d", f.name, d, want)
		}
		ours(uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED))
		p.wantAll(f, a, next, f.name+", the machine's own")
	}
}

func TestAnUnallocatedAddressWithABackendsBitIsDropped(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.ranges("198.18.255.0/24", "fd00:f::/112")
		p.do(bits.Put(p.PeerBits, bits.Addr(f.vip.Addr())))
		p.do(bits.Put(p.NodePortBits, bits.Port(f.vip.Port())))
		p.wantAll(f, f.vip.Addr(), drop, f.name)
		if d := p.drops(); d[bpf.LBDropReasonDROP_UNALLOCATED] != uint64(len(to(t, f, f.vip.Addr()))) || len(d) != 1 {
			t.Errorf("%s: drops %v", f.name, d)
		}
	}
}

func TestUnallocatedAddressesAmongSeveralRanges(t *testing.T) {
	p := load(t)
	p.ranges("198.18.255.0/24", "fd00:f::/112", "10.96.0.0/12", "fd00:10:96::/108", "203.0.113.7/32", "2001:db8::7/128", "192.0.2.128/25", "fd12::/16")
	f4, f6 := families()[0], families()[1]
	for _, tc := range []struct {
		f       family
		verdict uint32
		addrs   []string
	}{
		{f4, drop, []string{"198.18.255.0", "198.18.255.77", "198.18.255.255", "10.96.0.1", "10.103.200.9", "10.111.255.255", "203.0.113.7", "192.0.2.128", "192.0.2.255"}},
		{f4, next, []string{"198.18.254.255", "198.19.0.0", "10.95.255.255", "10.112.0.0", "203.0.113.6", "203.0.113.8", "192.0.2.127", "253.18.0.1", "0.15.0.1"}},
		{f6, drop, []string{"fd00:f::", "fd00:f::77", "fd00:f::ffff", "fd00:10:96::1", "fd00:10:96::f:ffff", "2001:db8::7", "fd12:3456::1", "fd12:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{f6, next, []string{"fd00:f::1:0", "fd00:e:ffff::", "fd00:10:96::10:0", "fd00:10:95:ffff::1", "2001:db8::6", "2001:db8::8", "fd13::", "fd11:ffff::1", "::10.96.0.1"}},
	} {
		for _, a := range tc.addrs {
			p.wantAll(tc.f, netip.MustParseAddr(a), tc.verdict, "in no range or one of several")
		}
	}
	p.ranges("198.18.255.0/24") // those behind are none any more
	p.wantAll(f4, netip.MustParseAddr("10.103.200.9"), next, "of a range that went")
	p.wantAll(f4, netip.MustParseAddr("198.18.255.77"), drop, "of the range that stayed")
	p.ranges()
	p.wantAll(f4, netip.MustParseAddr("198.18.255.77"), next, "without ranges")
}

// What others' frames hold is theirs, whatever their addresses.
func TestUnallocatedAddressesOfOthersFramesPass(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.ranges("198.18.255.0/24", "fd00:f::/112")
		for _, m := range []*ebpf.Map{nil, p.VipBits} {
			if m != nil {
				p.do(bits.Put(m, bits.Addr(f.vip.Addr())))
			}
			in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN, DstMAC: [6]byte{2, 0, 0, 0, 0, 9}}
			p.want(p.TcIngress, in, next, in)
		}
	}
}

// Errors about flows to a VIP whose service is gone find their backend still.
func TestErrorsAboutFlowsToAnUnallocatedAddress(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.ranges("198.18.255.0/24", "fd00:f::/112")
		p.picked(f, proto, f.client.Port(), packet.SYN)
		p.do(p.Vips.Delete(bpf.LBVipKey{Addr: f.vip.Addr().As16(), Port: f.vip.Port(), Proto: uint8(proto)}))
		p.do(p.Vips.Delete(bpf.LBVipKey{Addr: f.vip.Addr().As16()}))
		p.wantErrors(f, proto, f.vip, f.client)
		f.client = port(f.client, 9)
		p.wantAll(f, f.vip.Addr(), drop, "of no flow")
	})
}

// Ping of a VIP is the stack's as ever, by whatever range.
func TestPingOfAVIPWithinARangeIsTheStacks(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.ranges("198.18.255.0/24", "fd00:f::/112")
		p.vip(f.vip, lb.TCP, 1)
		for _, name := range []string{"a ping", "an error about no flow"} {
			frame := to(t, f, f.vip.Addr())[name]
			if ret, out := p.sendFrame(p.TcIngress, frame); ret != next || string(out) != string(frame) {
				t.Errorf("%s, %s: verdict %d", f.name, name, int32(ret))
			}
		}
	}
}
