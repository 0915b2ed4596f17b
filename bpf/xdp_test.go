// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// flowOf is one connection through a world.
type flowOf struct {
	p     *programs
	w     *world
	f     family
	proto lb.Protocol
	src   packet.Packet // the first packet, as the backend sees it
}

// eachFlow runs a test with one backend, of both families and protocols, masqueraded
// and not, after a flow has begun.
func eachFlow(t *testing.T, test func(t *testing.T, c *flowOf)) {
	eachFlowIn(newWorld(t), test)
}

func eachFlowIn(w *world, test func(t *testing.T, c *flowOf)) {
	t := w.t
	for _, f := range families() {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			for name, masquerade := range map[string]bool{"kept": false, "masqueraded": true} {
				t.Run(f.name+"/"+proto.String()+"/"+name, func(t *testing.T) {
					w.t = t
					p := w.load()
					p.backend(1, f.servers[0], 1)
					p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
					p.vip(f.vip, proto, 1)
					c := &flowOf{p: p, w: w, f: f, proto: proto}
					if masquerade {
						p.masquerade(f, nodes[f.name], proto)
						p.ports(5000)
					}
					c.begin()
					test(t, c)
				})
			}
		}
	}
}

// begin sends the first packet, which ingress takes and sends on past the stack.
func (c *flowOf) begin() {
	c.p.t.Helper()
	c.p.at = c.w.clients
	in := come(c.w.clients, packet.Packet{Src: c.f.client, Dst: c.f.vip, Protocol: c.proto, Flags: packet.SYN})
	c.p.want(c.p.XdpIngress, in, xdpPass, in)
	ret, frame := c.p.send(c.p.TcIngress, in)
	if ret != redirect {
		c.p.t.Fatalf("verdict %d for the first packet, want it redirected", int32(ret))
	}
	c.p.at = c.w.servers
	ret, frame = c.p.sendFrame(c.p.TcEgress, frame)
	var err error
	if c.src, err = packet.Parse(frame); err != nil || ret != next || c.src.Dst != c.f.servers[0] {
		c.p.t.Fatalf("left with verdict %d as %v -> %v, %v", int32(ret), c.src.Src, c.src.Dst, err)
	}
}

func (c *flowOf) request(payload []byte) (in, out packet.Packet) {
	in = come(c.w.clients, packet.Packet{Src: c.f.client, Dst: c.f.vip, Protocol: c.proto, Flags: packet.ACK, Payload: payload})
	return in, leave(c.w.servers, packet.Packet{Src: c.src.Src, Dst: c.f.servers[0], Protocol: c.proto, Flags: packet.ACK, Payload: payload})
}

func (c *flowOf) reply(flags packet.Flag, payload []byte) (in, out packet.Packet) {
	in = come(c.w.servers, packet.Packet{Src: c.f.servers[0], Dst: c.src.Src, Protocol: c.proto, Flags: flags, Payload: payload})
	return in, leave(c.w.clients, packet.Packet{Src: c.f.vip, Dst: c.f.client, Protocol: c.proto, Flags: flags, Payload: payload})
}

func (c *flowOf) wantRequest(verdict uint32, in, out packet.Packet) {
	c.p.t.Helper()
	c.p.at = c.w.clients
	c.p.want(c.p.XdpIngress, in, verdict, out)
}

func (c *flowOf) wantReply(verdict uint32, in, out packet.Packet) {
	c.p.t.Helper()
	c.p.at = c.w.servers
	c.p.want(c.p.XdpIngress, in, verdict, out)
}

func TestXDPMakesBothRewritesAtOnce(t *testing.T) {
	eachFlow(t, func(t *testing.T, c *flowOf) {
		for i, size := range []int{0, 1, 1000, 1400} {
			payload := bytes.Repeat([]byte{7}, size)
			flags := packet.ACK
			if i == 0 {
				flags |= packet.SYN
			}
			in, out := c.reply(flags, payload)
			c.wantReply(xdpRedirect, in, out)
			in, out = c.request(payload)
			c.wantRequest(xdpRedirect, in, out)
		}
		want := bpf.LBFlowStateSTATE_ESTABLISHED
		if c.proto == lb.UDP {
			want = bpf.LBFlowStateSTATE_UDP
		}
		if got := c.p.state(c.f, c.proto); got != want {
			t.Errorf("state %v, want %v", got, want)
		}
	})
}

// wantStack wants XDP to pass a request, and ingress what.
func (c *flowOf) wantStack(t *testing.T, in packet.Packet, ingress uint32) {
	t.Helper()
	c.wantRequest(xdpPass, in, in)
	if ret, _ := c.p.send(c.p.TcIngress, in); ret != ingress {
		t.Errorf("ingress: verdict %d, want %d", int32(ret), int32(ingress))
	}
}

// The stack answers what is too long, or at its last hop: it gets it with the backend's
// address, as ever. The rest ingress sends on.
func TestXDPLeavesToTheStackWhatItMustAnswer(t *testing.T) {
	eachFlow(t, func(t *testing.T, c *flowOf) {
		in, out := c.request(nil)
		in.TTL = 1
		c.wantStack(t, in, next)
		in.TTL, out.TTL = 2, 1
		c.wantRequest(xdpRedirect, in, out)
		long, _ := c.request(make([]byte, 1500))
		c.wantStack(t, long, next)
		reply, _ := c.reply(packet.ACK, make([]byte, 1500))
		c.wantReply(xdpPass, reply, reply)
		in.TTL = 64
		c.w.neighbour(c.w.servers, c.f.name, netlink.NUD_FAILED)
		c.p.tick()
		c.wantStack(t, in, redirect)
		c.w.neighbour(c.w.servers, c.f.name, netlink.NUD_PERMANENT)
		out.TTL = 63
		c.wantRequest(xdpRedirect, in, out)
	})
}

// Now and then a packet of a flow goes by the stack's own search for neighbours, each
// way, as XDP alone would send to one that is long gone.
func TestXDPAsksForNeighboursNowAndThen(t *testing.T) {
	eachFlow(t, func(t *testing.T, c *flowOf) {
		for range 3 {
			c.p.sleep(41) // 4096 jiffies, at the slowest
			in, out := c.request(nil)
			c.wantStack(t, in, redirect)
			c.wantRequest(xdpRedirect, in, out)
			in, out = c.reply(packet.ACK, nil)
			c.wantReply(xdpPass, in, in)
			ret, frame := c.p.send(c.p.TcIngress, in)
			if ret != redirect {
				t.Errorf("a reply: verdict %d, want it redirected", int32(ret))
			}
			c.p.at = c.w.clients
			copy(frame, c.w.clients.mac[:])
			if ret, _ = c.p.sendFrame(c.p.TcEgress, frame); ret != next {
				t.Errorf("a reply: verdict %d at egress", int32(ret))
			}
			c.wantReply(xdpRedirect, in, out)
		}
	})
}

// What the FIB said of one packet is not said of the next that it would not hold for, which
// comes at once.
func TestXDPAsksAgainForOtherPackets(t *testing.T) {
	eachFlow(t, func(t *testing.T, c *flowOf) {
		for name, change := range map[string]func(*packet.Packet){
			"longer":            func(p *packet.Packet) { p.Payload = make([]byte, 1500) },
			"at its last hop":   func(p *packet.Packet) { p.TTL = 1 },
			"another's address": func(p *packet.Packet) { p.DstMAC[5]++ },
		} {
			for range 3 {
				in, out := c.request([]byte(name))
				c.wantRequest(xdpRedirect, in, out)
				change(&in)
				c.wantRequest(xdpPass, in, in)
				in, out = c.reply(packet.ACK, []byte(name))
				c.wantReply(xdpRedirect, in, out)
				change(&in)
				c.wantReply(xdpPass, in, in)
			}
		}
		in, out := c.request(nil)
		c.wantRequest(xdpRedirect, in, out)
		c.p.at = c.w.servers // the same ends, by another device
		in.DstMAC = c.w.servers.mac
		c.w.devices(c.p, 0, bpf.LBDeviceFlagsDEVICE_XDP)
		c.p.want(c.p.XdpIngress, in, xdpTX, leave(c.w.servers, packet.Packet{Src: c.src.Src, Dst: c.f.servers[0], Protocol: c.proto, Flags: packet.ACK}))
	})
}

// What is not finished, not for this machine, or of a VLAN, XDP does not touch.
func TestXDPPassesWhatItMustNotTouch(t *testing.T) {
	eachFlow(t, func(t *testing.T, c *flowOf) {
		in, _ := c.request(make([]byte, 100)) // no padding
		frame, err := in.Bytes()
		c.p.do(err)
		for name, change := range map[string]func([]byte) []byte{
			"unfinished checksum": func(b []byte) []byte { return unfinished(b, c.proto) },
			"another's address":   func(b []byte) []byte { b[5]++; return b },
			"everybody's address": func(b []byte) []byte { copy(b, "\xff\xff\xff\xff\xff\xff"); return b },
			"of a VLAN":           func(b []byte) []byte { return slices.Concat(b[:12], []byte{0x81, 0, 0, 7}, b[12:]) },
		} {
			changed := change(slices.Clone(frame))
			c.p.at = c.w.clients
			if ret, out := c.p.sendFrame(c.p.XdpIngress, changed); ret != xdpPass || !bytes.Equal(out, changed) {
				t.Errorf("%s: verdict %d, or changed", name, ret)
			}
		}
		if c.proto == lb.TCP {
			in.Flags = packet.SYN // may want another backend
			c.wantStack(t, in, redirect)
		}
	})
}

// unfinished puts the pseudo-header's sum in the place of the checksum, as for a device
// that is to finish it.
func unfinished(b []byte, proto lb.Protocol) []byte {
	l4, addrs := 14+20, b[14+12:14+20]
	if b[14]>>4 == 6 {
		l4, addrs = 14+40, b[14+8:14+40]
	}
	sum := uint32(len(b)-l4) + uint32(proto)
	for i := 0; i < len(addrs); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(addrs[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	at := l4 + 16
	if proto == lb.UDP {
		at = l4 + 6
	}
	binary.BigEndian.PutUint16(b[at:], uint16(sum))
	return b
}

// XDP sends to devices that are as its own: natively to native ones, and what is in
// several pieces only where the driver takes it.
func TestXDPSendsToDevicesThatTakeIt(t *testing.T) {
	const (
		on      = bpf.LBDeviceFlagsDEVICE_XDP
		native  = on | bpf.LBDeviceFlagsDEVICE_NATIVE
		generic = on | bpf.LBDeviceFlagsDEVICE_GENERIC
		frags   = native | bpf.LBDeviceFlagsDEVICE_FRAGS
	)
	w := newWorld(t)
	for _, at := range []*place{w.clients, w.servers} {
		w.do(w.router.SetMTU(at.device, 9000))
	}
	eachFlowIn(w, func(t *testing.T, c *flowOf) {
		for _, tc := range []struct {
			clients, servers bpf.LBDeviceFlags
			size             int
			verdict          uint32
		}{
			{native, native, 10, xdpRedirect}, {generic, generic, 10, xdpRedirect}, {frags, frags, 10, xdpRedirect},
			{native, generic, 10, xdpPass}, {generic, native, 10, xdpPass}, {on, on, 10, xdpPass},
			{native, 0, 10, xdpPass}, {0, native, 10, xdpPass},
			{frags, frags, 8000, xdpRedirect}, {frags, native, 8000, xdpPass},
		} {
			c.w.devices(c.p, tc.clients, tc.servers)
			c.p.tick()
			in, out := c.request(bytes.Repeat([]byte{9}, tc.size))
			if tc.verdict == xdpPass {
				out = in
			}
			c.wantRequest(tc.verdict, in, out)
		}
	})
}

// Where client and server are behind one device, frames leave as they came.
func TestXDPSendsBackByTheSameDevice(t *testing.T) {
	w := newWorld(t)
	for _, f := range families() {
		p := w.load()
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		p.at = w.servers
		// neither native nor generic: it needs to take no other device's frames
		w.devices(p, 0, bpf.LBDeviceFlagsDEVICE_XDP)
		client := netip.AddrPortFrom(f.servers[3].Addr(), 1234)
		in := come(w.servers, packet.Packet{Src: client, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN})
		if ret, _ := p.send(p.TcIngress, in); ret != redirect {
			t.Fatalf("%s: verdict %d for the first packet", f.name, int32(ret))
		}
		in.Flags = packet.ACK
		p.want(p.XdpIngress, in, xdpTX, leave(w.servers, packet.Packet{Src: client, Dst: f.servers[0], Protocol: lb.TCP, Flags: packet.ACK}))
		in = come(w.servers, packet.Packet{Src: f.servers[0], Dst: client, Protocol: lb.TCP, Flags: packet.ACK})
		p.want(p.XdpIngress, in, xdpTX, leave(w.servers, packet.Packet{Src: f.vip, Dst: client, Protocol: lb.TCP, Flags: packet.ACK}))
	}
}

// A flow is not XDP's if one direction cannot be: then nothing of it goes past the stack.
func TestXDPTakesNoHalfOfAFlow(t *testing.T) {
	w := newWorld(t)
	for _, f := range families() {
		p := w.load()
		p.backend(1, f.servers[0], 1)
		p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1)
		p.vip(f.vip, lb.TCP, 1)
		stays := func(name string, at *place, src netip.AddrPort) {
			t.Helper()
			in := come(at, packet.Packet{Src: src, Dst: f.vip, Protocol: lb.TCP, Flags: packet.SYN})
			out := in
			out.Dst = f.servers[0]
			p.at = at
			p.want(p.TcIngress, in, next, out)
			in.Flags = packet.ACK
			p.want(p.XdpIngress, in, xdpPass, in)
			p.at = w.servers
			in = come(w.servers, packet.Packet{Src: f.servers[0], Dst: src, Protocol: lb.TCP, Flags: packet.SYN | packet.ACK})
			p.want(p.XdpIngress, in, xdpPass, in)
			p.want(p.TcIngress, in, next, in)
			if t.Failed() {
				t.Fatalf("%s: %s", f.name, name)
			}
		}
		stays("a client that is behind another device", w.servers, port(f.client, 1))
		stays("a client without a route", w.clients, netip.AddrPortFrom(f.vip2.Addr(), 2))
		w.devices(p, bpf.LBDeviceFlagsDEVICE_XDP|bpf.LBDeviceFlagsDEVICE_NATIVE, 0)
		stays("replies come by a device without XDP", w.clients, port(f.client, 3))
	}
}
