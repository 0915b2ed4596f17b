// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// checksumComplete is BPF_F_TEST_SKB_CHECKSUM_COMPLETE (6.17): the packet comes
// as from a device that has summed it, and the run fails with EBADMSG if that
// sum does not follow what the program changed.
const checksumComplete = 1 << 2

func TestForwardAndReplyAreRewrittenByteForByte(t *testing.T) {
	for _, tc := range []struct {
		name  string
		vars  map[string]any
		flags uint32
	}{
		{"plain stores", nil, 0},
		{"plain stores, summed by the device", nil, checksumComplete},
		{"by helper", map[string]any{"checksum_by_helper": true}, 0},
		{"by helper, summed by the device", map[string]any{"checksum_by_helper": true}, checksumComplete},
	} {
		t.Run(tc.name, func(t *testing.T) { testRewrite(t, tc.vars, tc.flags) })
	}
}

func testRewrite(t *testing.T, vars map[string]any, flags uint32) {
	eachWith(t, vars, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.flags = flags
		for i := range 6 {
			c := port(f.client, uint16(20000+i))
			server := f.servers[i%3]
			for _, size := range []int{0, 1, 1000} {
				in := packet.Packet{Src: c, Dst: f.vip, Protocol: proto, Flags: packet.ACK, Payload: bytes.Repeat([]byte{7}, size)}
				if size == 0 {
					in.Flags = packet.SYN
				}
				out := in
				out.Dst = server
				p.want(p.TcIngress, in, next, out)
				back := packet.Packet{Src: server, Dst: c, Protocol: proto, Flags: packet.ACK, Payload: in.Payload}
				out = back
				out.Src = f.vip
				p.want(p.TcEgress, back, next, out)
			}
		}
	})
}

func TestUDPWithoutChecksumStaysWithout(t *testing.T) {
	p := load(t)
	f := families()[0]
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.UDP, 1)
	in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.UDP, ZeroChecksum: true, Payload: []byte("x")}
	_, out := p.send(p.TcIngress, in)
	// the header's own checksum is not computed for such a packet: only look at UDP's
	d := gopacket.NewPacket(out, layers.LayerTypeEthernet, gopacket.Default)
	u, ok := d.TransportLayer().(*layers.UDP)
	if !ok || u.Checksum != 0 || uint16(u.DstPort) != f.servers[0].Port() {
		t.Fatalf("got %v", d)
	}
}

func TestIPv4OptionsAreCarried(t *testing.T) {
	p := load(t)
	f := families()[0]
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.TCP, 1)
	in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN, Options: true}
	out := in
	out.Dst = f.servers[0]
	p.want(p.TcIngress, in, next, out)
}

func TestPacketsOfOthersPassUntouched(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: f.servers[3], Protocol: proto, Flags: packet.SYN, Payload: []byte("x")}
		p.want(p.TcIngress, in, next, in)
		in.Src, in.Dst = f.servers[0], f.client // a backend's own connection: bit set, no flow
		p.want(p.TcEgress, in, next, in)
		in = packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN, DstMAC: [6]byte{2, 0, 0, 0, 0, 9}}
		p.want(p.TcIngress, in, next, in) // for another host
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

func wantUnreachable(t *testing.T, f family, sent, got []byte) {
	t.Helper()
	d := gopacket.NewPacket(got, layers.LayerTypeEthernet, gopacket.Default)
	if err := packet.Verify(d); err != nil {
		t.Error(err)
	}
	q, err := packet.Parse(got)
	if err != nil || q.Src.Addr() != f.vip.Addr() || q.Dst.Addr() != f.client.Addr() {
		t.Errorf("from %v to %v (%v), want from the VIP to the client", q.Src, q.Dst, err)
	}
	quote := 28
	if f.name == "ipv6" {
		quote = 48
		icmp, ok := d.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		if !ok || icmp.TypeCode != layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable) {
			t.Fatalf("no ICMPv6 port unreachable: %v", d)
		}
	} else {
		icmp, ok := d.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if !ok || icmp.TypeCode != layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort) {
			t.Fatalf("no ICMP port unreachable: %v", d)
		}
	}
	inner := got[14+quote:]
	if len(inner) < 28 || !bytes.HasPrefix(sent[14:], inner) {
		t.Errorf("quotes % x\n   sent % x", inner, sent[14:])
	}
	if len(got)-14 > 1280 || (f.name == "ipv4" && len(got)-14 > 576) {
		t.Errorf("%d bytes: too long for an ICMP error", len(got)-14)
	}
}

func TestEmptyPoolIsRefusedWithPortUnreachable(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0)
		for _, size := range []int{0, 3, 700, 1400} {
			in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN, Payload: bytes.Repeat([]byte{0xa5}, size)}
			in.SrcMAC = [6]byte{2, 1, 1, 1, 1, 1}
			sent, err := in.Bytes()
			p.do(err)
			ret, got := p.send(p.TcIngress, in)
			if ret != redirect {
				t.Fatalf("verdict %d, want redirect", int32(ret))
			}
			wantUnreachable(t, f, sent, got)
			if q, _ := packet.Parse(got); q.DstMAC != in.SrcMAC {
				t.Errorf("goes to %x, want the sender %x", q.DstMAC, in.SrcMAC)
			}
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_EMPTY_POOL] != 4 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
	})
}

func TestUnknownPortIsRefusedUnlessTheAddressIsOurs(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: port(f.vip, 22), Protocol: proto, Flags: packet.SYN, Payload: []byte("xyz1")}
		sent, err := in.Bytes()
		p.do(err)
		ret, got := p.send(p.TcIngress, in)
		if ret != redirect {
			t.Fatalf("verdict %d, want redirect", int32(ret))
		}
		wantUnreachable(t, f, sent, got)
		p.do(p.NodeAddrs.Put(f.vip.Addr().As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)))
		p.want(p.TcIngress, in, next, in)
		if d := p.drops(); d[bpf.LBDropReasonDROP_UNKNOWN_PORT] != 1 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
	})
}

func TestTCPWithoutFlowIsReset(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		if proto != lb.TCP {
			return
		}
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.ACK, Seq: 1000, Ack: 77, Payload: []byte("hello")}
		rst := packet.Packet{Src: f.vip, Dst: f.client, Protocol: proto, Flags: packet.RST, Seq: 77}
		wantRST(t, p, in, rst)
		in.Flags, rst = packet.FIN, packet.Packet{Src: f.vip, Dst: f.client, Protocol: proto, Flags: packet.RST | packet.ACK, Ack: 1006}
		wantRST(t, p, in, rst)
		in.Flags = packet.RST
		p.want(p.TcIngress, in, drop, in)
		if d := p.drops(); d[bpf.LBDropReasonDROP_NO_FLOW] != 3 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
		p.do(p.NodeAddrs.Put(f.vip.Addr().As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)))
		in.Flags = packet.ACK
		p.want(p.TcIngress, in, next, in)
	})
}

func wantRST(t *testing.T, p *programs, in, rst packet.Packet) {
	t.Helper()
	ret, got := p.send(p.TcIngress, in)
	q, err := packet.Parse(got)
	if ret != redirect || err != nil || q.Src != rst.Src || q.Dst != rst.Dst || q.Flags != rst.Flags || q.Seq != rst.Seq || q.Ack != rst.Ack || len(q.Payload) > 0 {
		t.Errorf("verdict %d, err %v, got %+v, want %+v", int32(ret), err, q, rst)
	}
}

func TestUntranslatedPacketToAFrontendIsDroppedAtEgress(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN}
		p.want(p.TcEgress, in, drop, in)
		in.Dst = port(f.vip, 22)
		p.want(p.TcEgress, in, next, in)
		if d := p.drops(); d[bpf.LBDropReasonDROP_UNTRANSLATED] != 1 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
	})
}

// What a socket leaves alone, as it is to be dropped, is told by why that is.
func TestUntranslatedPacketIsDroppedForWhatItsSocketSaw(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		var s bpf.LBService
		p.do(p.Services.Lookup(uint32(1), &s))
		s.Local = uint64(bpf.LBRuleRULE_CURSOR)<<56 | uint64(bpf.LBRuleFlagsRULE_EMPTY_DROP)<<60
		p.do(p.Services.Put(uint32(1), s))
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN}
		want := make(map[bpf.LBDropReason]uint64)
		leaves := func(flags bpf.LBVipFlags, why bpf.LBDropReason) {
			p.flagged(f, proto, flags)
			p.want(p.TcEgress, in, drop, in)
			want[why]++
			if got := p.drops(); !maps.Equal(got, want) {
				t.Errorf("with flags %d: drops %v, want %v", flags, got, want)
			}
		}
		leaves(bpf.LBVipFlagsVIP_LOCAL, bpf.LBDropReasonDROP_NO_LOCAL)
		leaves(bpf.LBVipFlagsVIP_LOCAL|bpf.LBVipFlagsVIP_SHORT_CIRCUIT, bpf.LBDropReasonDROP_UNTRANSLATED)
		leaves(bpf.LBVipFlagsVIP_LOCAL|bpf.LBVipFlagsVIP_RESTRICTED, bpf.LBDropReasonDROP_SOURCE_RANGE)
		p.do(p.SourceRanges.Put(bpf.LBSourceKey{Len: 32 + 128, Service: 1, Addr: f.client.Addr().As16()}, uint32(1)))
		leaves(bpf.LBVipFlagsVIP_RESTRICTED, bpf.LBDropReasonDROP_UNTRANSLATED)
	})
}

func TestSameClientPortToTwoVIPsWithOneBackend(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip2, proto, 1)
		p.picked(f, proto, f.client.Port(), packet.SYN)
		in := packet.Packet{Src: f.client, Dst: f.vip2, Protocol: proto, Flags: packet.SYN}
		// no other port to give: refused
		if ret, _ := p.send(p.TcIngress, in); ret != redirect {
			t.Errorf("verdict %d, want a refusal", int32(ret))
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_REPLY_TAKEN] != 1 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
		if l := p.load(1); l.Active+l.Inactive != 1 {
			t.Errorf("load %+v, want one entry", l)
		}
		p.ports(5000)
		out := packet.Packet{Src: port(f.client, 5000), Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
		p.want(p.TcIngress, in, next, out)
		p.flags = checksumComplete
		p.want(p.TcIngress, in, next, out)
		back := packet.Packet{Src: f.servers[0], Dst: port(f.client, 5000), Protocol: proto, Flags: packet.SYN | packet.ACK}
		p.want(p.TcEgress, back, next, packet.Packet{Src: f.vip2, Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK})
		back.Dst = f.client
		p.want(p.TcEgress, back, next, packet.Packet{Src: f.vip, Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK})
	})
}

// The allowance is set, not used up: a slow machine would need seconds for that,
// and get more meanwhile.
func TestAnswersAreRateLimited(t *testing.T) {
	p := load(t)
	f := families()[0]
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0)
	p.vip(f.vip, lb.UDP, 1)
	in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: lb.UDP}
	p.send(p.TcIngress, in) // the second begins
	buckets := p.buckets()
	for i, at := range slices.Repeat([]uint64{newest(buckets)}, len(buckets)) {
		buckets[i] = bpf.LBBucket{Refilled: at}
	}
	p.do(p.Buckets.Put(uint32(0), buckets))
	if ret, _ := p.send(p.TcIngress, in); ret != drop {
		t.Errorf("verdict %d when the allowance is used up, want drop", int32(ret))
	}
	if d := p.drops(); d[bpf.LBDropReasonDROP_EMPTY_POOL] != 2 || d[bpf.LBDropReasonDROP_RATE_LIMITED] != 1 {
		t.Errorf("drops %v", d)
	}
	p.sleep(2)
	if ret, _ := p.send(p.TcIngress, in); ret != redirect {
		t.Error("still silent two seconds later")
	}
	at := newest(p.buckets())
	for _, b := range p.buckets() {
		if b.Refilled == at && b.Tokens != 999 {
			t.Errorf("%d answers left in the second, want 999", b.Tokens)
		}
	}
}

func (p *programs) buckets() (out []bpf.LBBucket) {
	p.do(p.Buckets.Lookup(uint32(0), &out))
	return out
}

// newest is when the last allowance was given.
func newest(buckets []bpf.LBBucket) (at uint64) {
	for _, b := range buckets {
		at = max(at, b.Refilled)
	}
	return at
}
