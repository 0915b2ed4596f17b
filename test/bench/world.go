// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// place is a device of the router, by which frames come in.
type place struct {
	index uint32
	mac   [6]byte
}

// skb is what a test run of tc must be told: struct __sk_buff up to ifindex.
func (p *place) skb() any { return [11]uint32{10: p.index} }

// frame is the same for XDP: struct xdp_md.
func (p *place) frame(length int) any { return [5]uint32{1: uint32(length), 3: p.index} }

// world is a router with two devices, both with XDP: clients are behind one,
// servers behind the other. Neighbours are known.
type world struct {
	lab              *netlab.Lab
	router           *netlab.Namespace
	clients, servers *place
	links            []link.Link
	pass             *ebpf.Program
}

func newWorld() (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a router in a network namespace (run as root): %w", err), w.close())
		}
	}()
	if w.lab, err = netlab.New(netlab.Options{Prefix: "bench", Clients: 1, Servers: 1}); err != nil {
		return nil, err
	}
	w.router = w.lab.Director
	w.pass, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}, License: "GPL"})
	if err != nil {
		return nil, err
	}
	if w.clients, err = w.place(w.lab.Clients()[0], "198.18.0.0/24", "fd00:c::c612:0/112"); err != nil {
		return nil, err
	}
	w.servers, err = w.place(w.lab.Servers()[0], "198.19.0.0/24", "fd00:e::c613:0/112")
	return w, err
}

func (w *world) close() error {
	var err error
	for _, l := range w.links {
		err = errors.Join(err, l.Close())
	}
	if w.pass != nil {
		err = errors.Join(err, w.pass.Close())
	}
	if w.lab != nil {
		err = errors.Join(err, w.lab.Close())
	}
	return err
}

// place leads networks to a node. Its device gets an XDP program, without which
// test runs take no frame from there.
func (w *world) place(n *netlab.Node, networks ...string) (*place, error) {
	index, err := w.router.Ifindex(n.Device)
	if err != nil {
		return nil, err
	}
	near, err := w.router.MAC(n.Device)
	if err != nil {
		return nil, err
	}
	far, err := n.MAC("eth0")
	if err != nil {
		return nil, err
	}
	at := &place{index: uint32(index), mac: [6]byte(near)}
	for _, a := range []netip.Addr{n.V4, n.V6} {
		if err := w.router.SetNeighbour(n.Device, a, far); err != nil {
			return nil, err
		}
	}
	for _, network := range networks {
		to := netip.MustParsePrefix(network)
		if err := w.router.AddRoute(to, n.Addr(to.Addr().Is6())); err != nil {
			return nil, err
		}
	}
	return at, w.router.Do(func() error {
		x, err := link.AttachXDP(link.XDPOptions{Program: w.pass, Interface: int(at.index), Flags: link.XDPDriverMode})
		if err == nil {
			w.links = append(w.links, x)
		}
		return err
	})
}

// fill tells the programs of the devices.
func (w *world) fill(devices *ebpf.Map) error {
	for _, at := range []*place{w.clients, w.servers} {
		d := bpf.LBDevice{Mac: at.mac, Flags: uint8(bpf.LBDeviceFlagsDEVICE_XDP | bpf.LBDeviceFlagsDEVICE_NATIVE)}
		if err := devices.Put(at.index, d); err != nil {
			return fmt.Errorf("fill map devices: %w", err)
		}
	}
	return nil
}
