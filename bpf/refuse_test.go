// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// lives sets a frame's TTL or hop limit, and returns what it was.
func lives(frame []byte, ttl byte) (before byte) {
	if frame[14]>>4 == 6 {
		before, frame[14+7] = frame[14+7], ttl
		return before
	}
	before, frame[14+8] = frame[14+8], ttl
	// RFC 1624: the checksum follows the word that the TTL is the first byte of
	sum := uint32(^binary.BigEndian.Uint16(frame[14+10:])) + uint32(^(uint16(before) << 8)) + uint32(ttl)<<8
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(frame[14+10:], ^uint16(sum&0xffff+sum>>16))
	return before
}

func TestAnAnswerHasALifeOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.ACK} // TCP: RST
		if proto == lb.UDP {
			in.Dst = port(f.vip, 9) // ICMP
		}
		frame, err := in.Bytes()
		p.do(err)
		lives(frame, 1)
		ret, out := p.sendFrame(p.TcIngress, frame)
		if ret != redirect {
			t.Fatalf("verdict %d, want an answer", int32(ret))
		}
		if _, err := packet.Parse(out); err != nil {
			t.Error(err)
		}
		if ttl := lives(out, 1); ttl != 64 {
			t.Errorf("the answer lives for %d hops, want 64", ttl)
		}
	})
}

// RFC 1122 section 3.2.2, RFC 4443 section 2.4: no answer to what is no host.
func TestASourceThatIsNoHostIsNotAnswered(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		sources := []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255"}
		if f.name == "ipv6" {
			sources = []string{"::", "::1", "ff02::1", "ff0e::2"}
		}
		for _, src := range sources {
			in := packet.Packet{Src: netip.AddrPortFrom(netip.MustParseAddr(src), 7), Dst: f.vip, Protocol: proto, Flags: packet.ACK}
			if proto == lb.UDP {
				in.Dst = port(f.vip, 9)
			}
			if ret, _ := p.send(p.TcIngress, in); ret != drop {
				t.Errorf("%s: verdict %d, want drop", src, int32(ret))
			}
		}
	})
}
