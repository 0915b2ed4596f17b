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
)

var nodes = map[string]netip.Addr{"ipv4": netip.MustParseAddr("198.20.0.1"), "ipv6": netip.MustParseAddr("fd00:20::1")}

func nodePort(f family, p uint16) netip.AddrPort { return netip.AddrPortFrom(nodes[f.name], p) }

// through sends a packet through ingress and then egress, as routing would, and
// returns what leaves; false if it does not.
func (p *programs) through(in packet.Packet) (packet.Packet, bool) {
	p.t.Helper()
	ret, frame := p.send(p.TcIngress, in)
	if ret != next {
		return packet.Packet{}, false
	}
	ret, frame = p.sendFrame(p.TcEgress, frame)
	if ret != next {
		return packet.Packet{}, false
	}
	out, err := packet.Parse(frame)
	p.do(err)
	return out, true
}

// connect opens a connection of the client's port, masqueraded, and returns the
// node's port; 0 if none was found.
func (p *programs) connect(f family, client netip.AddrPort) uint16 {
	p.t.Helper()
	out, ok := p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN})
	if !ok {
		return 0
	}
	if out.Src.Addr() != nodes[f.name] || out.Dst != f.servers[0] {
		p.t.Fatalf("left as %v -> %v", out.Src, out.Dst)
	}
	return out.Src.Port()
}

// back sends the server's segment to the node's port, and wants it at the client.
func (p *programs) back(f family, masq uint16, client netip.AddrPort, flags packet.Flag) {
	p.t.Helper()
	node := nodePort(f, masq)
	out, ok := p.through(packet.Packet{Src: f.servers[0], Dst: node, Protocol: lb.TCP, Flags: flags})
	if !ok || out.Src != f.vip || out.Dst != client {
		p.t.Errorf("reply to %v came out as %v -> %v (%v), want %v -> %v", node, out.Src, out.Dst, ok, f.vip, client)
	}
}

func masqueraded(t *testing.T, f family) *programs {
	p := load(t)
	p.backend(1, f.servers[0], 1)
	p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
	p.vip(f.vip, lb.TCP, 1)
	p.masquerade(f, nodes[f.name], lb.TCP)
	return p
}

func TestMasqueradeTriesTheClientsOwnPortFirst(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000, 5001, 5002, 10001)
		if got := p.connect(f, f.client); got != f.client.Port() {
			t.Errorf("%s: left with port %d, want the client's %d", f.name, got, f.client.Port())
		}
		if got := p.connect(f, port(f.client, 40000)); got < 5000 || got > 5002 {
			t.Errorf("%s: left with port %d, want one of those that masquerading may use", f.name, got)
		}
	}
}

func TestMasqueradeUsesEveryPortAndThenRefuses(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000, 5001, 5002, 5003, 5004)
		ports := map[uint16]uint16{}
		for i := range uint16(5) {
			client := port(f.client, 40000+i)
			got := p.connect(f, client)
			ports[got] = client.Port()
			p.back(f, got, client, packet.SYN|packet.ACK)
		}
		if len(ports) != 5 || ports[0] != 0 {
			t.Fatalf("%s: ports %v, want all five", f.name, ports)
		}
		if got := p.connect(f, port(f.client, 41000)); got != 0 {
			t.Errorf("%s: port %d for a sixth", f.name, got)
		}
		if d := p.drops(); d[bpf.LBDropReasonDROP_NO_PORT] != 1 || len(d) != 1 {
			t.Errorf("%s: drops %v", f.name, d)
		}
		for masq, client := range ports { // the five live on
			p.back(f, masq, port(f.client, client), packet.ACK)
		}
	}
}

func TestANewConnectionTakesThePortOfAClosedOne(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		for i := range uint16(20) {
			client := port(f.client, 40000+i)
			if got := p.connect(f, client); got != 5000 {
				t.Fatalf("%s: connection %d left with port %d", f.name, i, got)
			}
			p.back(f, 5000, client, packet.SYN|packet.ACK)
			if _, ok := p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.ACK}); !ok {
				t.Fatalf("%s: connection %d: lost", f.name, i)
			}
			if got := p.connect(f, port(f.client, 50000)); got != 0 {
				t.Fatalf("%s: an established connection lost its port", f.name)
			}
			p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.FIN | packet.ACK})
			p.back(f, 5000, client, packet.FIN|packet.ACK)
			p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.ACK})
		}
		p.sleep(1000)
		for range 3 {
			p.sweep()
			p.sleep(20)
		}
		if l, n := p.load(1), p.entries(); l != (bpf.LBBackendLoad{}) || n != 0 {
			t.Errorf("%s: load %+v, %d entries at the end", f.name, l, n)
		}
	}
}

// TestAPortIsLeftAloneWhileItsLastACKIsOnItsWay: as long as there are others.
func TestAPortIsLeftAloneWhileItsLastACKIsOnItsWay(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		var list []uint16
		for i := range uint16(32) {
			list = append(list, 5000+i)
		}
		p.ports(list...)
		seen := make(map[uint16]int)
		for round := range 2 {
			for i := range list {
				client := port(f.client, 40000+uint16(i))
				got := p.connect(f, client)
				if seen[got]++; got == 0 || seen[got] != round+1 {
					t.Fatalf("%s: connection %d of round %d left with port %d, had by %d before", f.name, i, round, got, seen[got]-1)
				}
				p.back(f, got, client, packet.SYN|packet.ACK)
				for _, flags := range []packet.Flag{packet.ACK, packet.FIN | packet.ACK} {
					p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: flags})
				}
				p.back(f, got, client, packet.FIN|packet.ACK)
			}
			p.sleep(2)
		}
		if l := p.load(1); l.Active != 0 || l.Inactive != 32 {
			t.Errorf("%s: load %+v", f.name, l)
		}
	}
}

// TestAPortThatTheBackendRemembersIsKept: a backend that was the first to close
// answers the SYN of another client by an ACK of the former connection.
func TestAPortThatTheBackendRemembersIsKept(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000, 5001, 5002, 5003, 5004, 5005, 5006, 5007)
		client := port(f.client, 40000)
		masq := p.connect(f, client)
		for range 3 {
			p.back(f, masq, client, packet.ACK)
			if _, ok := p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.RST}); !ok {
				t.Errorf("%s: the client's reset is lost", f.name)
			}
			p.sleep(2)
			if again := p.connect(f, client); again != masq {
				t.Errorf("%s: the SYN left with port %d, and again with %d", f.name, masq, again)
			}
		}
		p.back(f, masq, client, packet.SYN|packet.ACK)
		p.through(packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.ACK})
		if l := p.load(1); l.Active != 1 || l.Inactive != 0 {
			t.Errorf("%s: load %+v, want one that is established", f.name, l)
		}
		p.sleep(800) // longer than it could be half-open
		for range 3 {
			p.sweep()
			p.sleep(2)
		}
		p.back(f, masq, client, packet.ACK)
	}
}

func TestMasqueradedFlowsPassTheHooksOnce(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.connect(f, f.client)
		// a bridge and its port, a VLAN and its device: the same packet again
		again := packet.Packet{Src: nodePort(f, 5000), Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.SYN}
		p.want(p.TcEgress, again, next, again)
		back := packet.Packet{Src: f.vip, Dst: f.client, Protocol: lb.TCP, Flags: packet.SYN | packet.ACK}
		p.want(p.TcEgress, back, next, back)
	}
}

func TestErrorsAboutMasqueradedPackets(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.connect(f, f.client)
		node := nodePort(f, 5000)
		tcp := func(src, dst netip.AddrPort) packet.Packet {
			return packet.Packet{Src: src, Dst: dst, Protocol: lb.TCP, Flags: packet.ACK, Payload: make([]byte, 100)}
		}
		for _, kind := range kinds(f) {
			r := router[f.name]
			// from beyond the backend's side: to the node, then to the client
			in := errorAbout(t, kind, r, node.Addr(), tcp(node, f.servers[0]), 200)
			mid := errorAbout(t, kind, r, f.client.Addr(), tcp(f.client, f.servers[0]), 200)
			out := errorAbout(t, kind, f.vip.Addr(), f.client.Addr(), tcp(f.client, f.vip), 200)
			p.wantError(p.TcIngress, in, mid)
			p.wantError(p.TcEgress, mid, out)
			// from the client's side: to the VIP, then to the backend
			in = errorAbout(t, kind, r, f.vip.Addr(), tcp(f.vip, f.client), 200)
			mid = errorAbout(t, kind, r, f.servers[0].Addr(), tcp(f.servers[0], f.client), 200)
			out = errorAbout(t, kind, node.Addr(), f.servers[0].Addr(), tcp(f.servers[0], node), 200)
			p.wantError(p.TcIngress, in, mid)
			p.wantError(p.TcEgress, mid, out)
		}
	}
}

func TestSCTPKeepsItsPortsAndItsChecksum(t *testing.T) {
	for _, f := range families() {
		p := load(t)
		server := netip.AddrPortFrom(f.servers[0].Addr(), f.vip.Port())
		p.backend(1, server, 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.SCTP, 1)
		for _, hop := range []struct {
			name     string
			prog     *ebpf.Program
			src, dst netip.AddrPort
			to       packet.Packet
		}{
			{"to the VIP", p.TcIngress, f.client, f.vip, packet.Packet{Src: f.client, Dst: server}},
			{"back", p.TcEgress, server, f.client, packet.Packet{Src: f.vip, Dst: f.client}},
		} {
			in := packet.Packet{Src: hop.src, Dst: hop.dst, Protocol: lb.SCTP, Payload: []byte("four")}
			want := hop.to
			want.Protocol, want.Payload = lb.SCTP, in.Payload
			for _, p.flags = range []uint32{0, checksumComplete} {
				p.want(hop.prog, in, next, want)
			}
		}
	}
}

func TestAMasqueradePortMayBeThatOfAFrontendOfTheSameAddress(t *testing.T) {
	for _, f := range families() {
		p := masqueraded(t, f)
		p.ports(5000)
		p.vip(nodePort(f, 5000), lb.TCP, 1)
		if got := p.connect(f, f.client); got != 5000 {
			t.Fatalf("%s: left with port %d", f.name, got)
		}
		p.back(f, 5000, f.client, packet.SYN|packet.ACK)
		in := packet.Packet{Src: port(f.client, 7), Dst: nodePort(f, 5000), Protocol: lb.TCP, Flags: packet.SYN}
		out := in
		out.Dst = f.servers[0]
		p.want(p.TcIngress, in, next, out)
	}
}
