// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// opening is how flows come about, and by which programs; and, if they are
// answered, what the backends send.
type opening struct {
	scene
	hook   hook
	prog   *ebpf.Program
	frame  []byte
	back   *scene
	egress *ebpf.Program
}

// chunk is how many flows are half-open at a time while flows are opened: with
// more than half a ring of them, the oldest make room.
const chunk = 1 << 15

// open makes flows, established: a SYN and an ACK each, or two datagrams. They
// come in the order of their numbers, and so go to the backends in turn.
func (b *bench) open(o opening) error {
	if err := b.clear(); err != nil {
		return err
	}
	n := o.flows
	for o.first = 0; o.first < n; o.first += chunk {
		for _, flags := range []packet.Flag{packet.SYN, packet.ACK} {
			o.flags = flags
			if err := b.send(o.hook, o.prog, o.frame, o.scene, min(chunk, n)); err != nil {
				return fmt.Errorf("open flows: %w", err)
			}
		}
		if err := b.answer(o, min(chunk, n)); err != nil {
			return fmt.Errorf("answer flows: %w", err)
		}
	}
	return nil
}

// answer has backends answer flows once, the first and those behind it.
func (b *bench) answer(o opening, flows int) error {
	if o.back == nil {
		return nil
	}
	s := *o.back
	s.first, s.random = o.first, false
	return b.send(b.egress(), o.egress, o.frame, s, flows)
}

// established measures both directions of flows that are there, in tc.
func (b *bench) established(f family, proto lb.Protocol, n int) ([]row, error) {
	data, err := frame(f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.vip, port: 80, flows: n, flags: packet.ACK}
	back := scene{f: f, other: f.backends[0], spread: servers - 1, port: 8080, flows: n, flags: packet.ACK, random: true}
	if err := b.open(opening{s, b.ingress(), b.lb.TcIngress, data, &back, b.lb.TcEgress}); err != nil {
		return nil, err
	}
	s.random = true
	name := fmt.Sprintf("tc established %s %s", proto, f.name)
	return b.tryAll(
		trial{name: name + " forward", hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next, scene: s, counted: b.counted, fill: n},
		trial{name: name + " reply", hook: b.egress(), prog: b.lb.TcEgress, frame: data, want: next, scene: back, counted: b.counted, fill: n},
	)
}

func (b *bench) tryAll(trials ...trial) (rows []row, err error) {
	for _, t := range trials {
		r, err := b.try(t)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// xdp is the hook by which a packet comes in at a device, to a VIP or back.
func (b *bench) xdp(at *place, length int, back bool) hook {
	h := hook{b.wrap.WrapXdp, b.wrap.FloorXdp, b.wrap.Xdp, xdpTX, at.frame(length)}
	if back {
		h.wrapper = b.wrap.WrapXdpReply
	}
	return h
}

// at is a hook of tc at a device.
func (h hook) at(p *place) hook {
	h.context = p.skb()
	return h
}

// establishedXDP measures the same of flows that are XDP's. Ingress opens them,
// and meets each again when XDP has one go that way, as it does every so often.
func (b *bench) establishedXDP(f family, proto lb.Protocol, n int) ([]row, error) {
	w := b.world
	data, err := frameTo(w.clients, f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	reply, err := frameTo(w.servers, f, proto, f.vip)
	if err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.vip, port: 80, flows: n, flags: packet.ACK, mac: w.clients.mac}
	back := scene{f: f, other: f.backends[0], spread: servers - 1, port: 8080, flows: n, flags: packet.ACK, mac: w.servers.mac, random: true}
	o := opening{s, b.ingress().at(w.clients), b.withXDP.TcIngress, data, &back, b.withXDP.TcEgress}
	if err := b.open(o); err != nil {
		return nil, err
	}
	s.random = true
	see := func() error { return b.send(o.hook, o.prog, data, s, n) }
	answer := func() error { return b.answer(o, n) }
	name := fmt.Sprintf("XDP established %s %s", proto, f.name)
	var trials []trial
	if f.name == "v4" && proto == lb.TCP {
		trials = append(trials, trial{name: "floor XDP, one lookup and a write", hook: b.xdp(w.clients, len(data), false), prog: b.wrap.FloorLookup,
			frame: data, want: xdpTX, scene: s, fill: n})
	}
	return b.tryAll(append(trials,
		trial{name: name + " forward", hook: b.xdp(w.clients, len(data), false), prog: b.withXDP.XdpIngress, frame: data, want: xdpRedirect,
			scene: s, counted: b.counted, again: see, fill: n},
		trial{name: name + " reply", hook: b.xdp(w.servers, len(data), true), prog: b.withXDP.XdpIngress, frame: reply, want: xdpRedirect,
			scene: back, counted: b.counted, again: answer, fill: n},
	)...)
}
