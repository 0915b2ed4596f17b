// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
)

type vipKey = bpf.LBVipKey

// backend is a record of the map, with a method.
type backend struct{ bpf.LBBackend }

func (b backend) serves() bool {
	return b.State == uint8(bpf.LBBackendStateBACKEND_ACTIVE) && b.Weight > 0
}

// service is a service and the run that its pool word names.
type service struct {
	ID       uint32
	Hash     uint64
	proto    uint8
	v6       bool
	rule     bpf.LBRule
	flags    uint64
	base     uint32
	run      []uint32
	cursor   uint64
	backends []uint32 // its records, in the pool or not
}

// device is one of the run's devices.
type device struct {
	index        uint32
	mac          [6]byte
	addr4, addr6 addr
}

// addrBits and backendBits are the bitmaps that answer "perhaps".
type addrBits map[uint32]bool

func (b addrBits) has(a addr) bool { return b[bits.Addr(netip.AddrFrom16(a))] }

type backendBits map[uint32]bool

func (b backendBits) has(a addr, port uint16, proto uint8) bool {
	return b[bits.Backend(netip.AddrPortFrom(netip.AddrFrom16(a), port), lb.Protocol(proto))]
}

// world is a configuration: what the agent writes. The maps hold the same.
type world struct {
	capacity              int // entries of the flow table
	start                 uint32
	ports                 []uint16
	vips                  map[vipKey]bpf.LBVip
	services              map[uint32]*service
	backends              map[uint32]backend
	ids                   map[uint64]uint32
	assigned              map[addr]bool
	devices               []*device
	vipBits, peerBits     addrBits
	backendBits, masqBits backendBits
	slots                 uint32 // next free word
	gone                  []goneBackend
	lastID                uint32

	// pools that packets are made of
	clients, nodes []netip.Addr
	frontends      []frontend
	endpoints      []netip.AddrPort // of backends, gone or not: both families have some
	clientPorts    []uint16
}

// frontend is an address and port that a service has, or may get.
type frontend struct {
	netip.AddrPort
	proto   uint8
	service uint32
}

func (f frontend) key() vipKey {
	return vipKey{Addr: f.Addr().As16(), Port: f.Port(), Proto: f.proto}
}

func v4(b ...byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

func v6(net, host byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 3: net, 15: host}) }

// lastWord bounds the map of runs.
const lastWord = 4096

// newWorld makes a configuration and writes it.
func newWorld(r *rand.Rand, k *kernel) (*world, error) {
	w := &world{capacity: k.capacity, start: k.start, vips: map[vipKey]bpf.LBVip{}, services: map[uint32]*service{},
		backends: map[uint32]backend{}, ids: map[uint64]uint32{}, assigned: map[addr]bool{}, devices: k.devices,
		vipBits: addrBits{}, peerBits: addrBits{}, backendBits: backendBits{}, masqBits: backendBits{}, slots: 1}
	for i := range byte(3) {
		w.clients = append(w.clients, v4(198, 18, 0, i+1), v6(0x0c, i+1))
	}
	w.nodes = []netip.Addr{v4(198, 20, 0, 1), v6(0x20, 1)}
	// no hosts, which get no answer
	w.clients = append(w.clients, v4(239, 1, 2, 3), netip.AddrFrom16([16]byte{0: 0xff, 1: 0x0e, 15: 1}))
	// where a header's bytes stand for an EtherType, these spell their family
	w.clients = append(w.clients, v4(8, 0, 0, 9), netip.AddrFrom16([16]byte{0: 0xfd, 4: 0x86, 5: 0xdd, 15: 9}))
	w.clientPorts = []uint16{1000, 1001, 1002, 1003, 40000, 40001, 40002, 40003}
	k.w = w
	err := w.populate(r, k)
	return w, err
}

func (w *world) populate(r *rand.Rand, k *kernel) error {
	id, service := uint32(1), uint32(1)
	for _, ipv6 := range []bool{false, true} {
		for _, proto := range []uint8{protoTCP, protoUDP, protoTCP, protoUDP, protoSCTP} {
			s := newService(r, service, proto, ipv6)
			w.services[service] = s
			for i := range byte(1 + r.IntN(4)) {
				if err := w.addBackend(r, k, s, id, i+1); err != nil {
					return err
				}
				id++
			}
			if err := w.compile(k, s); err != nil {
				return err
			}
			for i := range byte(2) {
				if err := w.addFrontend(r, k, s, i); err != nil {
					return err
				}
			}
			service++
		}
	}
	if err := w.setPorts(r, k); err != nil {
		return err
	}
	for _, d := range w.devices {
		if err := w.setDevice(k, d, d.index != 1 || r.IntN(8) > 0); err != nil {
			return err
		}
	}
	return nil
}

func newService(r *rand.Rand, id uint32, proto uint8, ipv6 bool) *service {
	s := &service{ID: id, Hash: 0x5000 + uint64(id), proto: proto, v6: ipv6, rule: bpf.LBRule(1 + r.IntN(3))}
	if s.rule != bpf.LBRuleRULE_CURSOR {
		s.flags = r.Uint64N(8)
	}
	return s
}

func (w *world) addBackend(r *rand.Rand, k *kernel, s *service, id uint32, host byte) error {
	at := netip.AddrPortFrom(v4(8, 0, 1, host), 8080)
	if s.v6 {
		at = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 4: 0x86, 5: 0xdd, 14: 1, 15: host}), 8080)
	}
	if s.proto == protoSCTP { // it keeps its ports
		at = netip.AddrPortFrom(at.Addr(), 80)
	}
	for _, b := range []uint32{bits.Addr(at.Addr()), bits.Addr(w.nodes[0]), bits.Addr(w.nodes[1])} {
		w.peerBits[b] = true
		if err := setBit(k.PeerBits, b); err != nil {
			return err
		}
	}
	b := bits.Backend(at, lb.Protocol(s.proto))
	w.backendBits[b], w.masqBits[b] = true, true
	if err := setBit(k.BackendBits, b); err != nil {
		return err
	}
	if err := setBit(k.MasqBits, b); err != nil {
		return err
	}
	s.backends, w.endpoints = append(s.backends, id), append(w.endpoints, at)
	return w.put(k, id, backend{bpf.LBBackend{Hash: 0xb000 + uint64(id), Addr: at.Addr().As16(), Port: at.Port(),
		Weight: uint16(r.IntN(4)), Service: s.ID, State: uint8(bpf.LBBackendStateBACKEND_ACTIVE)}})
}

// put writes a backend; without hash, the id becomes free.
func (w *world) put(k *kernel, id uint32, b backend) error {
	if old := w.backends[id]; old.Hash != b.Hash && old.Hash != 0 {
		delete(w.ids, old.Hash)
		if err := k.BackendIds.Delete(old.Hash); err != nil {
			return err
		}
	}
	w.backends[id] = b
	if err := k.Backends.Put(id, b.LBBackend); err != nil || b.Hash == 0 {
		return err
	}
	w.ids[b.Hash] = id
	return k.BackendIds.Put(b.Hash, id)
}

// compile publishes a service's run: what serves, each as often as it weighs.
func (w *world) compile(k *kernel, s *service) error {
	s.run = nil
	for _, id := range s.backends {
		b := w.backends[id]
		if b.Hash == 0 || b.State != uint8(bpf.LBBackendStateBACKEND_ACTIVE) {
			continue
		}
		n := 1
		if s.rule == bpf.LBRuleRULE_CURSOR {
			n = int(b.Weight)
		}
		s.run = append(s.run, slices.Repeat([]uint32{id}, n)...)
	}
	if int(w.slots)+len(s.run) >= lastWord-2 {
		return errFull
	}
	s.base, w.slots = w.slots, w.slots+1+uint32(len(s.run)+1)/2
	if err := k.Slots.Put(s.base, s.cursor); err != nil {
		return err
	}
	for i := 0; i < len(s.run); i += 2 {
		word := uint64(s.run[i])
		if i+1 < len(s.run) {
			word |= uint64(s.run[i+1]) << 32
		}
		if err := k.Slots.Put(s.base+1+uint32(i/2), word); err != nil {
			return err
		}
	}
	pool := uint64(s.base) | uint64(len(s.run))<<32 | uint64(s.rule)<<56 | s.flags<<61
	return k.Services.Put(s.ID, bpf.LBService{Hash: s.Hash, Pool: pool})
}

func (w *world) addFrontend(r *rand.Rand, k *kernel, s *service, n byte) error {
	ip := v4(198, 18, 255, 10+n)
	if s.v6 {
		ip = v6(0x0f, 10+n)
	}
	at := netip.AddrPortFrom(ip, []uint16{80, 443, 80, 53}[r.IntN(4)])
	if s.proto == protoSCTP {
		at = netip.AddrPortFrom(ip, 80)
	}
	f := frontend{at, s.proto, s.ID}
	for _, old := range w.frontends {
		if old.key() == f.key() {
			return nil
		}
	}
	w.frontends = append(w.frontends, f)
	b := bits.Addr(ip)
	w.vipBits[b] = true
	if err := setBit(k.VipBits, b); err != nil {
		return err
	}
	return w.serve(k, f, uint32(r.IntN(2)))
}

// serve enters a frontend and its address's marker.
func (w *world) serve(k *kernel, f frontend, flags uint32) error {
	for key, v := range map[vipKey]bpf.LBVip{f.key(): {Service: f.service, Flags: flags}, {Addr: f.Addr().As16()}: {}} {
		w.vips[key] = v
		if err := k.Vips.Put(key, v); err != nil {
			return err
		}
	}
	return nil
}
