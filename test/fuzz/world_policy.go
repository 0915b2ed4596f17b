// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// What frontends and this machine say of clients, and where node ports are.

// network is the addresses that share their first bits, of 128.
type network struct {
	addr addr
	bits int
}

// around is a network of an address that has so many bits of its family's.
func around(a netip.Addr, bits int) network {
	p, err := a.Prefix(bits)
	if err != nil {
		panic(err) // more bits than the family has
	}
	return network{p.Masked().Addr().As16(), bits + 128 - a.BitLen()}
}

func (n network) has(a addr) bool {
	p, err := netip.AddrFrom16(a).Prefix(n.bits)
	return err == nil && p.Addr().As16() == n.addr
}

func (n network) mask() (m addr) {
	for i := range n.bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// vipFlags are those of a frontend.
func vipFlags(r *rand.Rand) uint32 {
	f := pick[uint32](r, 0, 0, vipMasquerade, vipMasquerade, vipMasquerade, vipOutsiders, vipNode, vipOutsiders|vipNode)
	f |= pick[uint32](r, 0, 0, vipLocal, vipLocal|vipShort)
	if r.IntN(12) == 0 {
		f |= vipRestricted
	}
	return f
}

// outside are the pools that a backend is not in.
func outside(r *rand.Rand) uint8 {
	return uint8(pick(r, 0, 0, 0, 0, poolLocal, poolLocal, poolLocal, poolCluster, poolCluster|poolLocal))
}

// populateNode says what this machine is: its addresses, its pods, the ranges of
// VIPs. Some addresses of these look like a VIP's or a backend's.
func (w *world) populateNode(r *rand.Rand, k *kernel) error {
	for _, a := range w.nodes {
		if err := w.setPeerBit(k, a); err != nil {
			return err
		}
		if err := w.assign(k, a.As16(), pick(r, nodeAssigned, nodeAssigned|nodePorts, nodeAssigned|nodePorts)); err != nil {
			return err
		}
	}
	for i, a := range w.unallocated {
		var err error
		switch i / 2 % 4 {
		case 1:
			err = w.setVIPBit(k, a)
		case 2:
			err = w.setPeerBit(k, a)
		}
		if err != nil {
			return err
		}
	}
	if err := w.setPods(r, k); err != nil {
		return err
	}
	return w.setServiceRanges(r, k)
}

// nets are some networks of addresses that clients have.
func (w *world) nets(r *rand.Rand) (out []network) {
	for range r.IntN(5) {
		a := pick(r, slices.Concat(w.clients, w.nodes)...)
		bits := pick(r, a.BitLen(), a.BitLen(), a.BitLen()-1, a.BitLen()-2, a.BitLen()/2, a.BitLen()/2, 8, 8)
		if n := around(a, bits); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// setPods says where this machine's pods are.
func (w *world) setPods(r *rand.Rand, k *kernel) error {
	next := w.nets(r)
	err := changeTrie(k.Prefixes, w.podNetworks, next, func(n network) any {
		return bpf.LBPrefixKey{Len: uint32(n.bits), Addr: n.addr}
	})
	w.podNetworks = next
	return err
}

// restrict says from where a service's restricted frontends take flows.
func (w *world) restrict(r *rand.Rand, k *kernel, s *service) error {
	next := w.nets(r)
	err := changeTrie(k.SourceRanges, s.sources, next, func(n network) any {
		return bpf.LBSourceKey{Len: uint32(32 + n.bits), Service: s.ID, Addr: n.addr}
	})
	s.sources = next
	return err
}

func changeTrie(m *ebpf.Map, from, to []network, key func(network) any) error {
	for _, n := range from {
		if err := m.Delete(key(n)); err != nil {
			return fmt.Errorf("delete %v: %w", n, err)
		}
	}
	for _, n := range to {
		if err := m.Put(key(n), uint32(1)); err != nil {
			return fmt.Errorf("enter %v: %w", n, err)
		}
	}
	return nil
}

// setServiceRanges says where VIPs are taken from: of either family one network,
// among others or not.
func (w *world) setServiceRanges(r *rand.Rand, k *kernel) error {
	w.serviceRanges = nil
	v := bpf.LBServiceRanges{Count: uint32(r.IntN(len(bpf.LBServiceRanges{}.Addr) + 1))}
	for i := range v.Count {
		a := pick(r, slices.Concat(w.unallocated, w.clients[:2], []netip.Addr{v4(203, 0, 113, byte(i)), v6(0x99, byte(i))})...)
		n := around(a, pick(r, a.BitLen(), a.BitLen()-1, a.BitLen()-5, a.BitLen()-8))
		w.serviceRanges = append(w.serviceRanges, n)
		v.Addr[i], v.Mask[i] = n.addr, n.mask()
	}
	return k.ServiceRanges.Put(uint32(0), v)
}

// nodePortNumbers are those of a world: with those that backends have, and that
// masquerading uses, or not.
func nodePortNumbers(r *rand.Rand) []uint16 {
	if r.IntN(2) == 0 {
		return []uint16{30080, 30053, 9}
	}
	return []uint16{30080, 8080, 8080, 40001, 40001, 9}
}

// addNodePorts gives a service a node port or two, and seldom a frontend at an
// address of this machine, perhaps of the same number.
func (w *world) addNodePorts(r *rand.Rand, k *kernel, s *service) error {
	n := r.IntN(3)
	if s.proto == protoSCTP && !s.anyPort {
		n = 0 // it keeps its ports
	}
	for range n {
		a := netip.IPv4Unspecified()
		if s.v6 {
			a = netip.IPv6Unspecified()
		}
		if err := w.enter(r, k, frontend{netip.AddrPortFrom(a, pick(r, w.numbers...)), s.proto, s.ID}); err != nil {
			return err
		}
	}
	if r.IntN(8) > 0 {
		return nil
	}
	return w.enter(r, k, frontend{netip.AddrPortFrom(w.node(s.v6), pick(r, w.numbers...)), s.proto, s.ID})
}

// node is this machine's address of a family.
func (w *world) node(ipv6 bool) netip.Addr {
	if ipv6 {
		return w.nodes[1]
	}
	return w.nodes[0]
}

// changeNode says anew what an address is that this machine has, or may get.
func (m *model) changeNode(r *rand.Rand, k *kernel) error {
	switch r.IntN(6) {
	case 0:
		m.hit("change: an address of no service is assigned, or no more")
		return m.assign(k, pick(r, m.unallocated...).As16(), pick(r, 0, 0, nodeAssigned))
	case 1, 2, 3:
		return m.takeAddr(k)
	}
	m.hit("change: an address serves node ports, or no more")
	a := pick(r, m.nodes...).As16()
	if m.servesNodePorts(a) {
		return m.assign(k, a, pick(r, 0, nodeAssigned, nodeAssigned))
	}
	return m.assign(k, a, nodeAssigned|nodePorts)
}

// takeAddr gives this machine the address of a backend to which a direct connection
// leads that has another port, and is to the number of a node port; or takes one
// away.
func (m *model) takeAddr(k *kernel) error {
	for _, a := range m.endpoints {
		if b := a.Addr().As16(); m.nodeAddrs[b] != 0 && !slices.Contains(m.nodes, a.Addr()) {
			return m.assign(k, b, 0)
		}
	}
	for _, e := range m.list {
		p := pkt{dport: e.key.Dport, proto: e.key.Proto, v4: netip.AddrFrom16(e.key.Daddr).Is4In6()}
		if _, served := m.vips[m.nodePortKey(&p)]; served && e.live() && e.key.Position == uint8(e1) && e.Flags&fDirect != 0 {
			m.hit("change: a backend's address serves node ports")
			again := e.key
			m.begun = &again
			return m.assign(k, e.key.Daddr, nodeAssigned|nodePorts)
		}
	}
	return nil
}

// beginAgain has the first segment of a backend's connection come again, if it has
// one.
func (m *model) beginAgain(b backend) {
	for _, e := range m.list {
		if e.live() && e.key.Position == uint8(e1) && e.key.Proto == protoTCP && e.BackendHash == b.Hash {
			again := e.key
			m.begun = &again
			return
		}
	}
}

// changeAddr assigns an address to this machine, or takes it away.
func (m *model) changeAddr(r *rand.Rand, k *kernel) error {
	f := pick(r, m.frontends...)
	if f.isNodePort() || slices.Contains(m.nodes, f.Addr()) {
		return m.changeNode(r, k)
	}
	m.hit("change: a VIP's address is assigned, or no more")
	return m.assign(k, f.Addr().As16(), m.nodeAddrs[f.Addr().As16()]^nodeAssigned)
}

// changePolicy edits what stands beside services.
func (m *model) changePolicy(r *rand.Rand, k *kernel, s *service, what int) error {
	switch what {
	case 19:
		m.hit("change: where pods are")
		return m.setPods(r, k)
	case 20:
		m.hit("change: from where a service takes flows")
		return m.restrict(r, k, s)
	case 21:
		m.hit("change: where VIPs are taken from")
		return m.setServiceRanges(r, k)
	}
	if s.local = !s.local; s.local {
		m.hit("change: a local pool comes")
	} else {
		m.hit("change: a local pool goes")
	}
	return m.compile(r, k, s)
}
