// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// Services beyond those of fill: one VIP each, with two backends of their own.
const (
	firstService = 16
	firstBackend = 1 << 10
)

// nthAddr is an address of a network of 65,536 times 16.
func nthAddr(first byte, n uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(first)<<24+n)
	return netip.AddrFrom4(a)
}

// manyServices measures one service, and others' packets, while there are ever
// more services; then flows of which each 65,536th is of another service.
func (b *bench) manyServices() (rows []row, err error) {
	made := uint32(0)
	for _, n := range []uint32{1, 1000, b.size.services} {
		for ; made+1 < n; made++ {
			if err := b.another(made); err != nil {
				return nil, fmt.Errorf("service %d: %w", made, err)
			}
		}
		more, err := b.amongServices(fmt.Sprintf(", %d services", n))
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	data, err := frame(families[0], lb.TCP, nthAddr(11, 0))
	if err != nil {
		return nil, err
	}
	s := scene{f: families[0], other: nthAddr(11, 0), spread: uniqueFlows - 1, port: 80, flows: uniqueFlows, flags: packet.ACK}
	if err := b.open(opening{scene: s, hook: b.ingress(), prog: b.lb.TcIngress, frame: data}); err != nil {
		return nil, err
	}
	s.random = true
	r, err := b.try(trial{name: "tc established TCP v4 forward, each flow to another service", hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next,
		scene: s, fill: uniqueFlows})
	return append(rows, r), err
}

func (b *bench) another(n uint32) error {
	first := firstBackend + 2*n
	return b.service(firstService+n, nthAddr(11, n), lb.TCP, first, nthAddr(12, 2*n), nthAddr(12, 2*n+1))
}

func (b *bench) amongServices(suffix string) ([]row, error) {
	f := families[0]
	var rows []row
	for _, n := range []int{1, 1 << 16} {
		more, err := b.established(f, lb.TCP, n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	data, err := frame(f, lb.TCP, f.vip)
	if err != nil {
		return nil, err
	}
	s := scene{f: f, other: f.vip, port: 80, flows: uniqueFlows, flags: packet.SYN, random: true}
	r, err := b.try(trial{name: "new TCP v4 (rr, unique)", hook: b.ingress(), prog: b.lb.TcIngress, frame: data, want: next,
		scene: s, packets: uniqueFlows, before: b.clear, counted: b.counted, fill: uniqueFlows})
	if err != nil {
		return nil, err
	}
	rows = append(rows, r)
	for i := range rows {
		rows[i].Name += suffix
	}
	more, err := b.notOurs(f, suffix)
	return append(rows, more...), err
}
