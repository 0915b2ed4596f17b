// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// kinds are an unreachable port, a packet too big and a hop limit exceeded, of
// either family.
func kinds(f family) []packet.ICMPError {
	if f.name == "ipv4" {
		return []packet.ICMPError{{Type: 3, Code: 3}, {Type: 3, Code: 4, Value: 1280}, {Type: 11}, {Type: 12}}
	}
	return []packet.ICMPError{{Type: 1, Code: 4}, {Type: 2, Value: 1280}, {Type: 3}, {Type: 4}}
}

// lengths are how much of a packet errors quote: the least that RFC 792 asks
// for, a TCP header, all.
var lengths = []int{28, 48, 60, 200}

// errorAbout is an error of this kind that quotes a packet.
func errorAbout(t *testing.T, kind packet.ICMPError, from, to netip.Addr, about packet.Packet, length int) packet.ICMPError {
	t.Helper()
	frame, err := about.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if from.Is6() {
		length += 20
	}
	kind.Src, kind.Dst, kind.Quoted = from, to, packet.Quote(frame, length)
	return kind
}

// wantError sends an error through a program and wants it to come out as
// another, byte for byte.
func (p *programs) wantError(prog *ebpf.Program, in, want packet.ICMPError) {
	p.t.Helper()
	ret, out := p.sendFrame(prog, in.Bytes())
	got, err := packet.ParseICMPError(out)
	if ret != next || err != nil {
		p.t.Fatalf("verdict %d, %v", int32(ret), err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		p.t.Errorf("error type %d from %s (-want +got):\n%s", in.Type, in.Src, d)
	}
}

var router = map[string]netip.Addr{"ipv4": netip.MustParseAddr("203.0.113.1"), "ipv6": netip.MustParseAddr("fd00:99::1")}

func TestErrorsFromTheClientsSideReachTheBackend(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, f.client.Port(), packet.SYN)
		for _, complete := range []uint32{0, checksumComplete} {
			p.flags = complete
			for _, kind := range kinds(f) {
				for _, n := range lengths {
					sent := packet.Packet{Src: f.vip, Dst: f.client, Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 100)}
					seen := sent
					seen.Src = f.servers[0]
					in := errorAbout(t, kind, router[f.name], f.vip.Addr(), sent, n)
					want := errorAbout(t, kind, router[f.name], f.servers[0].Addr(), seen, n)
					p.wantError(p.TcIngress, in, want)
				}
			}
		}
	})
}

func TestErrorsFromTheBackendsSideReachTheClientAsTheVIPs(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, f.client.Port(), packet.SYN)
		for _, from := range []netip.Addr{router[f.name], f.servers[0].Addr()} {
			for _, kind := range kinds(f) {
				for _, n := range lengths {
					seen := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 100)}
					sent := seen
					sent.Dst = f.vip
					in := errorAbout(t, kind, from, f.client.Addr(), seen, n)
					want := errorAbout(t, kind, f.vip.Addr(), f.client.Addr(), sent, n)
					p.wantError(p.TcEgress, in, want)
				}
			}
		}
	})
}

func TestErrorsAboutOthersFlowsPassUntouched(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.picked(f, proto, f.client.Port(), packet.SYN)
		for _, kind := range kinds(f) {
			other := packet.Packet{Src: f.vip, Dst: port(f.client, 9), Protocol: proto, Flags: packet.ACK}
			in := errorAbout(t, kind, router[f.name], f.vip.Addr(), other, 28)
			p.wantError(p.TcIngress, in, in)
			other = packet.Packet{Src: port(f.client, 9), Dst: f.servers[0], Protocol: proto, Flags: packet.ACK}
			in = errorAbout(t, kind, router[f.name], f.client.Addr(), other, 28)
			p.wantError(p.TcEgress, in, in)
			in.Quoted = in.Quoted[:8] // cut off before it says anything
			ret, _ := p.sendFrame(p.TcEgress, in.Bytes())
			if ret != next {
				t.Errorf("verdict %d", int32(ret))
			}
		}
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

func TestPingOfAVIPIsTheStacks(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		ping := packet.ICMPError{Type: 8, Src: f.client.Addr(), Dst: f.vip.Addr(), Quoted: make([]byte, 56)}
		if f.name == "ipv6" {
			ping.Type = 128
		}
		ret, out := p.sendFrame(p.TcIngress, ping.Bytes())
		if ret != next || string(out) != string(ping.Bytes()) {
			t.Errorf("verdict %d, % x", int32(ret), out)
		}
	})
}

func TestAnErrorAboutAResourcedFlowNamesTheRightPorts(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.ports(5000)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip2, proto, 1)
		p.picked(f, proto, f.client.Port(), packet.SYN)
		_, out := p.send(p.TcIngress, packet.Packet{Src: f.client, Dst: f.vip2, Protocol: proto, Flags: packet.SYN})
		first, err := packet.Parse(out)
		p.do(err)
		if first.Src != port(f.client, 5000) || first.Dst != f.servers[0] {
			t.Fatalf("went on as %v -> %v", first.Src, first.Dst)
		}
		kind := kinds(f)[0]
		sent := packet.Packet{Src: f.vip2, Dst: f.client, Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 100)}
		seen := packet.Packet{Src: f.servers[0], Dst: port(f.client, 5000), Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 100)}
		p.wantError(p.TcIngress, errorAbout(t, kind, router[f.name], f.vip2.Addr(), sent, 200),
			errorAbout(t, kind, router[f.name], f.servers[0].Addr(), seen, 200))
		sent.Src, sent.Dst = sent.Dst, sent.Src
		seen.Src, seen.Dst = seen.Dst, seen.Src
		p.wantError(p.TcEgress, errorAbout(t, kind, router[f.name], f.client.Addr(), seen, 200),
			errorAbout(t, kind, f.vip2.Addr(), f.client.Addr(), sent, 200))
	})
}

func TestARedirectAboutATranslatedPacketIsDropped(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		p.picked(f, lb.TCP, f.client.Port(), packet.SYN)
		to := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.ACK, Payload: make([]byte, 100)}
		back := packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: lb.TCP, Flags: packet.ACK, Payload: make([]byte, 100)}
		other := packet.Packet{Src: port(f.client, 9), Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.ACK, Payload: make([]byte, 100)}
		for about, want := range map[*packet.Packet]uint32{&to: drop, &back: drop, &other: next} {
			if ret, _ := p.sendFrame(p.TcEgress, redirectAbout(t, f, *about)); ret != want {
				t.Errorf("%s: redirect about %v -> %v: verdict %d, want %d", f.name, about.Src, about.Dst, int32(ret), int32(want))
			}
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_REDIRECT] != 2 || len(d) != 1 {
			t.Errorf("drops %v", d)
		}
	}
}

// redirectAbout is what a router says whose packet goes out by the device that
// it came by: RFC 792, RFC 4861 section 4.5.
func redirectAbout(t *testing.T, f family, about packet.Packet) []byte {
	t.Helper()
	e := errorAbout(t, packet.ICMPError{Type: 5, Code: 1}, router[f.name], about.Src.Addr(), about, 28)
	if f.name == "ipv6" {
		e = errorAbout(t, packet.ICMPError{Type: 137}, router[f.name], about.Src.Addr(), about, 64)
		quoted := e.Quoted[:len(e.Quoted)&^7]
		target := about.Dst.Addr().As16()
		e.Quoted = append(append(append([]byte{}, target[:]...), target[:]...), 2, 1, 2, 0, 0, 0, 0, 1)
		e.Quoted = append(e.Quoted, 4, byte(1+len(quoted)/8), 0, 0, 0, 0, 0, 0)
		e.Quoted = append(e.Quoted, quoted...)
	}
	return e.Bytes()
}
