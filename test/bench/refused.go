// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// emptyService has no backend.
const emptyService = 10

// refused measures what is answered or dropped, at ingress. For answers the clock
// stands still, so to speak: with no jiffy to a second their allowance is always
// new. Their floor is the wrapper's, which takes no answer back: what that takes
// is in the figures.
func (b *bench) refused(f family) (rows []row, err error) {
	empty := f.vip.Next()
	for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
		if err := b.lb.Services.Put(uint32(emptyService), bpf.LBService{Hash: emptyService, Pool: 1}); err != nil {
			return nil, err
		}
		if err := b.vip(empty, proto, emptyService); err != nil {
			return nil, err
		}
	}
	if err := b.clear(); err != nil {
		return nil, err
	}
	var hz uint32
	if err := errors.Join(b.lb.Hz.Get(&hz), b.lb.Hz.Set(uint32(0))); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.lb.Hz.Set(hz)) }()
	for _, c := range []struct {
		name   string
		proto  lb.Protocol
		to     netip.Addr
		port   uint32
		flags  packet.Flag
		reason bpf.LBDropReason
	}{
		{"SYN %s, no backend: ICMP", lb.TCP, empty, 80, packet.SYN, bpf.LBDropReasonDROP_EMPTY_POOL},
		{"UDP %s, no backend: ICMP", lb.UDP, empty, 80, 0, bpf.LBDropReasonDROP_EMPTY_POOL},
		{"SYN %s, unknown port: ICMP", lb.TCP, f.vip, 81, packet.SYN, bpf.LBDropReasonDROP_UNKNOWN_PORT},
		{"ACK %s, of no flow: RST", lb.TCP, f.vip, 80, packet.ACK, bpf.LBDropReasonDROP_NO_FLOW},
	} {
		t, err := b.refusal(f, c.proto, scene{f: f, other: c.to, port: c.port, flows: uniqueFlows, flags: c.flags, random: true}, c.reason)
		if err != nil {
			return nil, err
		}
		t.name = "refused " + fmt.Sprintf(c.name, f.name)
		r, err := b.try(t)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return b.unanswered(f, rows)
}

func (b *bench) refusal(f family, proto lb.Protocol, s scene, reason bpf.LBDropReason) (trial, error) {
	data, err := frame(f, proto, s.other)
	if err != nil {
		return trial{}, err
	}
	s.length, s.room = len(data), 20+8
	if f.name == "v6" {
		s.room = 40 + 8
	}
	h := b.ingress()
	h.wrapper = b.wrap.WrapAnswered
	return trial{hook: h, prog: b.lb.TcIngress, frame: data, want: redirect, scene: s, packets: uniqueFlows, counted: func() (uint64, error) { return b.drops(reason) }}, nil
}

// unanswered adds what is beyond the allowance: of answers there are none for the
// time of a run, but for the first.
func (b *bench) unanswered(f family, rows []row) ([]row, error) {
	if err := b.lb.Hz.Set(^uint32(0)); err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.vip, port: 81, flows: uniqueFlows, flags: packet.SYN, random: true}
	t, err := b.refusal(f, lb.TCP, s, bpf.LBDropReasonDROP_RATE_LIMITED)
	if err != nil {
		return nil, err
	}
	t.name, t.want = fmt.Sprintf("refused SYN %s, unknown port: no answer, too many", f.name), drop
	if err := b.send(t.hook, t.prog, t.frame, t.scene, t.packets); err != nil {
		return nil, err
	}
	r, err := b.try(t)
	return append(rows, r), err
}

// drops is how many packets were counted for a reason.
func (b *bench) drops(reason bpf.LBDropReason) (n uint64, err error) {
	var each []uint64
	if err := b.lb.Drops.Lookup(uint32(reason), &each); err != nil {
		return 0, err
	}
	for _, c := range each {
		n += c
	}
	return n, nil
}
