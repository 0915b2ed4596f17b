// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"bytes"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

// nodePort gives service 1 a node port, which the node's address serves.
func (p *programs) nodePort(f family, port uint16, proto lb.Protocol, flags bpf.LBVipFlags) {
	p.t.Helper()
	unspecified := netip.IPv4Unspecified()
	if f.name == "ipv6" {
		unspecified = netip.IPv6Unspecified()
	}
	p.do(p.Vips.Put(bpf.LBVipKey{Addr: unspecified.As16(), Port: port, Proto: uint8(proto)}, bpf.LBVip{Service: 1, Flags: uint32(flags)}))
	p.do(bits.Put(p.NodePortBits, bits.Port(port)))
	p.do(bits.Put(p.PeerBits, bits.Addr(nodes[f.name])))
	p.do(p.NodeAddrs.Put(nodes[f.name].As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED|bpf.LBNodeAddrFlagsNODE_ADDR_PORTS)))
}

// A backend's port may be some service's node port too: it is no frontend at the
// backend's address, and who connects there is remembered all the same.
func TestADirectConnectionToANodePortsNumberIsRemembered(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.nodePort(f, f.servers[0].Port(), proto, 0)
		p.ports(5000)
		direct := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
		p.want(p.TcIngress, direct, next, direct)
		in := packet.Packet{Src: f.client, Dst: f.vip, Protocol: proto, Flags: packet.SYN}
		out := packet.Packet{Src: port(f.client, 5000), Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
		p.want(p.TcIngress, in, next, out)
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

// A direct connection that was given another port keeps it until it ends.
func TestADirectConnectionToANodePortsNumberKeepsItsPort(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.nodePort(f, f.servers[0].Port(), proto, 0)
		p.ports(5000, 5001, 5002, 5003, 5004, 5005, 5006, 5007)
		p.picked(f, proto, f.client.Port(), packet.SYN)
		answer := packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK}
		answered := answer
		answered.Src = f.vip
		p.want(p.TcEgress, answer, next, answered)
		p.picked(f, proto, f.client.Port(), packet.ACK)
		direct := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
		_, frame := p.send(p.TcIngress, direct)
		first, err := packet.Parse(frame)
		p.do(err)
		if first.Src == f.client || first.Dst != f.servers[0] {
			t.Fatalf("the first went on as %v -> %v, want another port", first.Src, first.Dst)
		}
		for _, flags := range []packet.Flag{packet.SYN, packet.SYN, packet.ACK, packet.FIN | packet.ACK} {
			in, out := direct, first
			in.Flags, out.Flags = flags, flags
			p.want(p.TcIngress, in, next, packet.Packet{Src: out.Src, Dst: out.Dst, Protocol: proto, Flags: flags})
		}
		back := packet.Packet{Src: f.servers[0], Dst: first.Src, Protocol: proto, Flags: packet.ACK}
		p.want(p.TcEgress, back, next, packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: proto, Flags: packet.ACK})
	})
}

// What ended there begins anew, by whichever port is free then.
func TestADirectConnectionToANodePortsNumberEnds(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		p.nodePort(f, f.servers[0].Port(), lb.TCP, 0)
		p.ports(5000)
		p.picked(f, lb.TCP, f.client.Port(), packet.SYN)
		p.send(p.TcEgress, packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: lb.TCP, Flags: packet.SYN | packet.ACK})
		p.picked(f, lb.TCP, f.client.Port(), packet.ACK)
		direct := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.SYN}
		resourced := direct
		resourced.Src = port(f.client, 5000)
		p.want(p.TcIngress, direct, next, resourced)
		p.picked(f, lb.TCP, f.client.Port(), packet.RST) // the flow is over: the port is free
		for _, flags := range []packet.Flag{packet.ACK, packet.RST} {
			direct.Flags, resourced.Flags = flags, flags
			p.want(p.TcIngress, direct, next, resourced)
		}
		direct.Flags = packet.SYN
		p.want(p.TcIngress, direct, next, direct)
	}
}

// An address that becomes this machine's serves its node ports to who begins there,
// whatever direct connection was there before.
func TestANodePortGoesBeforeAFormerDirectConnection(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.ports(5000)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.picked(f, proto, f.client.Port(), packet.SYN)
		answer := packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK}
		p.send(p.TcEgress, answer)
		p.picked(f, proto, f.client.Port(), packet.ACK)
		direct := packet.Packet{Src: f.client, Dst: f.servers[0], Protocol: proto, Flags: packet.SYN}
		resourced := direct
		resourced.Src = port(f.client, 5000)
		p.want(p.TcIngress, direct, next, resourced)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 2)
		p.nodePort(f, f.servers[0].Port(), proto, 0)
		p.do(p.NodeAddrs.Put(f.servers[0].Addr().As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED|bpf.LBNodeAddrFlagsNODE_ADDR_PORTS)))
		if proto == lb.TCP { // what is under way goes on
			ack, out := direct, resourced
			ack.Flags, out.Flags = packet.ACK, packet.ACK
			p.want(p.TcIngress, ack, next, out)
		}
		out := direct
		out.Dst = f.servers[1]
		p.want(p.TcIngress, direct, next, out)
	})
}

func TestAMasqueradePortMayBeANodePort(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.nodePort(f, 5000, lb.TCP, 0)
		if got := p.connect(f, f.client); got != 5000 {
			t.Fatalf("%s: left with port %d", f.name, got)
		}
		p.back(f, 5000, f.client, packet.SYN|packet.ACK)
		for _, client := range []netip.AddrPort{port(f.client, 7), port(f.servers[0], 7)} { // who is no answering backend is a client
			in := packet.Packet{Src: client, Dst: nodePort(f, 5000), Protocol: lb.TCP, Flags: packet.SYN}
			out := in
			out.Dst = f.servers[0]
			p.want(p.TcIngress, in, next, out)
		}
		p.back(f, 5000, f.client, packet.ACK)
	}
}

// The bit alone does not make a frontend of it: the reply finds its client.
func TestAMasqueradePortMayBeTheNumberOfAFormerNodePort(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.do(bits.Put(p.NodePortBits, bits.Port(5000)))
		p.connect(f, f.client)
		p.back(f, 5000, f.client, packet.SYN|packet.ACK)
		in := packet.Packet{Src: port(f.client, 7), Dst: nodePort(f, 5000), Protocol: lb.TCP, Flags: packet.SYN}
		p.want(p.TcIngress, in, next, in)
	}
}

func TestFragmentsToANodePort(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.nodePort(f, 30080, proto, 0)
		in := packet.Packet{Src: f.client, Dst: nodePort(f, 30080), Protocol: proto, Flags: packet.SYN, Payload: bytes.Repeat([]byte{1, 2, 3}, 1000)}
		out := in
		out.Dst = f.servers[0]
		p.whole(p.TcIngress, in, out, 7)
		back := packet.Packet{Src: f.servers[0], Dst: f.client, Protocol: proto, Flags: packet.SYN | packet.ACK, Payload: in.Payload}
		out = back
		out.Src = nodePort(f, 30080)
		p.whole(p.TcEgress, back, out, 8)
		other := in
		other.Dst = nodePort(f, 30081)
		p.whole(p.TcIngress, other, other, 9)
		if d := p.drops(); len(d) != 0 {
			t.Errorf("drops %v", d)
		}
	})
}

func TestMasqueradedFragmentsOfANodePort(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.masquerade(f, nodes[f.name], lb.TCP)
		p.do(bits.Put(p.MasqBits, bits.Backend(f.servers[0], lb.UDP)))
		p.nodePort(f, 30080, lb.UDP, bpf.LBVipFlagsVIP_MASQUERADE)
		in := packet.Packet{Src: f.client, Dst: nodePort(f, 30080), Protocol: lb.UDP, Payload: bytes.Repeat([]byte{1, 2, 3}, 1000)}
		mid := in
		mid.Dst = f.servers[0]
		p.whole(p.TcIngress, in, mid, 7)
		out := mid
		out.Src = nodePort(f, 5000)
		p.whole(p.TcEgress, mid, out, 7)
		back := packet.Packet{Src: f.servers[0], Dst: nodePort(f, 5000), Protocol: lb.UDP, Payload: in.Payload}
		mid = back
		mid.Dst = f.client
		p.whole(p.TcIngress, back, mid, 8)
		out = mid
		out.Src = nodePort(f, 30080)
		p.whole(p.TcEgress, mid, out, 8)
	}
}

func TestErrorsAboutFlowsOfANodePort(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.nodePort(f, 30080, proto, 0)
		frontend := nodePort(f, 30080)
		p.send(p.TcIngress, packet.Packet{Src: f.client, Dst: frontend, Protocol: proto, Flags: packet.SYN})
		p.wantErrors(f, proto, frontend, f.client)
	})
}

func TestErrorsAboutMasqueradedFlowsOfANodePort(t *testing.T) {
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.masquerade(f, nodes[f.name], proto)
		p.nodePort(f, 30080, proto, bpf.LBVipFlagsVIP_MASQUERADE)
		for _, masq := range []uint16{5000, 30080} { // of its own, or the node port's number
			p.ports(masq)
			frontend, client := nodePort(f, 30080), port(f.client, masq+1)
			p.through(packet.Packet{Src: client, Dst: frontend, Protocol: proto, Flags: packet.SYN})
			f := f
			f.client = client
			p.wantErrors(f, proto, frontend, nodePort(f, masq))
		}
	})
}

// wantErrors sends errors about a flow from both sides: at the backend its client
// is seen.
func (p *programs) wantErrors(f family, proto lb.Protocol, frontend, seen netip.AddrPort) {
	p.t.Helper()
	about := func(src, dst netip.AddrPort) packet.Packet {
		return packet.Packet{Src: src, Dst: dst, Protocol: proto, Flags: packet.ACK, Payload: make([]byte, 100)}
	}
	r, server := router[f.name], f.servers[0]
	for _, kind := range kinds(f) {
		for _, n := range lengths {
			// from the backend's side: to who is seen there, and to the client
			mid := errorAbout(p.t, kind, r, f.client.Addr(), about(f.client, server), n)
			out := errorAbout(p.t, kind, frontend.Addr(), f.client.Addr(), about(f.client, frontend), n)
			if seen != f.client {
				p.wantError(p.TcIngress, errorAbout(p.t, kind, r, seen.Addr(), about(seen, server), n), mid)
			}
			p.wantError(p.TcEgress, mid, out)
			// from the client's side: to the node port, and to the backend
			mid = errorAbout(p.t, kind, r, server.Addr(), about(server, f.client), n)
			p.wantError(p.TcIngress, errorAbout(p.t, kind, r, frontend.Addr(), about(frontend, f.client), n), mid)
			if seen != f.client {
				p.wantError(p.TcEgress, mid, errorAbout(p.t, kind, seen.Addr(), server.Addr(), about(server, seen), n))
			}
		}
	}
}

// bareMAC makes a test run take an IP packet without Ethernet header for a frame
// of the device's: the packet begins with these bytes, and its source address
// spells the EtherType.
var bareMAC = map[string][]byte{"ipv4": {0x46, 0, 0, 64, 0, 0}, "ipv6": {0x60, 0, 0, 0, 0, 60}}

// withLoopback runs a test in a network namespace whose loopback device has a MAC
// address: test runs are on that.
func withLoopback(t *testing.T, mac []byte) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetHardwareAddr(lo, mac); err != nil {
		t.Fatalf("set the MAC address of lo: %v", err)
	}
}

func TestNodePortsOfDevicesWithoutEthernetHeader(t *testing.T) {
	clients := map[string]netip.AddrPort{"ipv4": ap("8.0.0.9:10001"), "ipv6": ap("[fd00:0:86dd::9]:10001")}
	backends := map[string]netip.AddrPort{"ipv4": ap("8.0.1.1:8080"), "ipv6": ap("[fd00:0:86dd::101]:8080")}
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			withLoopback(t, bareMAC[f.name])
			p := loadSpec(t, nil, "tc_ingress", "tc_egress")
			client, server := clients[f.name], backends[f.name]
			p.backend(1, server, 1)
			p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
			p.nodePort(f, 30080, lb.UDP, bpf.LBVipFlagsVIP_MASQUERADE)
			p.vip(f.vip, lb.UDP, 1)
			p.masquerade(f, nodes[f.name], lb.UDP)
			p.do(bits.Put(p.MasqBits, bits.Backend(server, lb.UDP)))
			p.ports(5000)
			for _, hop := range []struct {
				name     string
				prog     *ebpf.Program
				src, dst netip.AddrPort
				to       [2]netip.AddrPort
			}{
				{"to the node port", p.TcIngressL3, client, nodePort(f, 30080), [2]netip.AddrPort{client, server}},
				{"on to the backend", p.TcEgressL3, client, server, [2]netip.AddrPort{nodePort(f, 5000), server}},
				{"back", p.TcIngressL3, server, nodePort(f, 5000), [2]netip.AddrPort{server, client}},
				{"on to the client", p.TcEgressL3, server, client, [2]netip.AddrPort{nodePort(f, 30080), client}},
				{"another port", p.TcIngressL3, client, nodePort(f, 30081), [2]netip.AddrPort{client, nodePort(f, 30081)}},
			} {
				ret, got := p.sendFrame(hop.prog, bare(t, hop.src, hop.dst))
				if want := bare(t, hop.to[0], hop.to[1]); ret != next || !bytes.Equal(got, want) {
					t.Errorf("%s: verdict %d\n got % x\nwant % x", hop.name, int32(ret), got, want)
				}
			}
			if d := p.drops(); len(d) != 0 {
				t.Errorf("drops %v", d)
			}
		})
	}
}

// bare is a datagram of the length that bareMAC says.
func bare(t *testing.T, src, dst netip.AddrPort) []byte {
	t.Helper()
	p := packet.Packet{Src: src, Dst: dst, Protocol: lb.UDP, Payload: bytes.Repeat([]byte{7}, 32), Options: src.Addr().Is4()}
	if src.Addr().Is6() {
		p.Payload = bytes.Repeat([]byte{7}, 52)
	}
	frame, err := p.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return frame[14:]
}

// 127.0.0.1 and ::1 are each machine's own: who sends to them from elsewhere is no client,
// even if they serve node ports to the machine itself.
func TestNodePortsOfLoopbackAreNotTheNetworks(t *testing.T) {
	loopback := map[string]netip.Addr{"ipv4": netip.MustParseAddr("127.0.0.1"), "ipv6": netip.IPv6Loopback()}
	each(t, func(t *testing.T, p *programs, f family, proto lb.Protocol) {
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.nodePort(f, 30000, proto, 0)
		own := loopback[f.name]
		p.do(bits.Put(p.PeerBits, bits.Addr(own)))
		p.do(p.NodeAddrs.Put(own.As16(), uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED|bpf.LBNodeAddrFlagsNODE_ADDR_PORTS)))
		in := packet.Packet{Src: f.client, Dst: netip.AddrPortFrom(own, 30000), Protocol: proto, Flags: packet.SYN}
		p.want(p.TcIngress, in, next, in)
	})
}
