// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
)

type vipKey = bpf.LBVipKey

// backend is a record of the map, with a method.
type backend struct{ bpf.LBBackend }

func (b backend) serves() bool {
	return b.State == uint8(bpf.LBBackendStateBACKEND_ACTIVE) && b.Weight > 0 && !b.inNoPool()
}

func (b backend) inNoPool() bool { return b.Outside == uint8(poolCluster|poolLocal) }

// device is one of the run's devices.
type device struct {
	index        uint32
	mac          [6]byte
	addr4, addr6 addr
	flags        uint8
}

// shift is that of the bitmaps, which have the size that is compiled in.
var shift = bits.Shift(bpf.BitsShift(uint32(bpf.LBLimitsBITS_WORDS)))

// bitmap answers "perhaps", by the indices of the bits that are set.
type bitmap map[uint32]bool

func (b bitmap) set(m bits.Mark) {
	for _, bit := range shift.Bits(m) {
		b[bit] = true
	}
}

func (b bitmap) has(m bits.Mark) bool {
	set := shift.Bits(m)
	return b[set[0]] && b[set[1]]
}

// addrBits and backendBits are the bitmaps of either kind.
type addrBits struct{ bitmap }

func (b addrBits) has(a addr) bool { return b.bitmap.has(bits.Addr(netip.AddrFrom16(a))) }

type backendBits struct{ bitmap }

func (b backendBits) has(a addr, port uint16, proto uint8) bool {
	return b.bitmap.has(bits.Backend(netip.AddrPortFrom(netip.AddrFrom16(a), port), lb.Protocol(proto)))
}

// world is a configuration: what the agent writes. The maps hold the same.
type world struct {
	capacity              int // entries of the flow table
	start                 uint32
	timeouts              [16]uint32 // seconds, by state
	ports                 []uint16
	vips                  map[vipKey]bpf.LBVip
	services              map[uint32]*service
	backends              []backend
	ids                   map[uint64]uint32
	nodeAddrs             map[addr]uint32
	nodePorts             map[uint16]bool // perhaps one
	podNetworks           []network
	serviceRanges         []network
	devices               []*device
	vipBits, peerBits     addrBits
	backendBits, masqBits backendBits
	anyPort               bool   // a backend has port 0, or had
	portsLater            bool   // none has it from the beginning
	slots                 uint32 // next free word
	tables                map[*uint16]sharedTable
	gone                  []goneBackend
	lastID                uint32

	// pools that packets are made of
	clients, nodes []netip.Addr
	unallocated    []netip.Addr // as VIPs are, and never one
	frontends      []frontend
	endpoints      []netip.AddrPort // of backends, gone or not: both families have some
	clientPorts    []uint16
	numbers        []uint16 // of node ports
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

func (f frontend) isNodePort() bool { return f.Addr().IsUnspecified() }

func v4(b ...byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

func v6(net, host byte) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 3: net, 15: host}) }

// newWorld makes a configuration and writes it.
func newWorld(r *rand.Rand, k *kernel) (*world, error) {
	w := &world{capacity: k.capacity, start: k.start, vips: map[vipKey]bpf.LBVip{}, services: map[uint32]*service{},
		backends: make([]backend, lastBackend), tables: map[*uint16]sharedTable{}, ids: map[uint64]uint32{}, nodeAddrs: map[addr]uint32{}, nodePorts: map[uint16]bool{}, devices: k.devices,
		vipBits: addrBits{bitmap{}}, peerBits: addrBits{bitmap{}}, backendBits: backendBits{bitmap{}}, masqBits: backendBits{bitmap{}}, slots: 1}
	for i := range byte(3) {
		w.clients = append(w.clients, v4(198, 18, 0, i+1), v6(0x0c, i+1))
	}
	w.nodes = []netip.Addr{v4(198, 20, 0, 1), v6(0x20, 1)}
	for i := range byte(4) {
		w.unallocated = append(w.unallocated, v4(198, 18, 255, 128+i), v6(0x0f, 128+i))
	}
	// no hosts, which get no answer
	w.clients = append(w.clients, v4(239, 1, 2, 3), netip.AddrFrom16([16]byte{0: 0xff, 1: 0x0e, 15: 1}))
	// where a header's bytes stand for an EtherType, these spell their family
	w.clients = append(w.clients, v4(8, 0, 0, 9), netip.AddrFrom16([16]byte{0: 0xfd, 4: 0x86, 5: 0xdd, 15: 9}))
	w.numbers = nodePortNumbers(r)
	w.clientPorts = []uint16{1000, 1001, 1002, 1003, 40000, 40001, 40002, 40003}
	k.w = w
	err := w.populate(r, k)
	return w, err
}

// ipvsTimeouts are the defaults, in seconds, by state.
var ipvsTimeouts = [16]uint32{2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300}

func (w *world) populate(r *rand.Rand, k *kernel) error {
	if err := w.setTimeouts(k, ipvsTimeouts); err != nil {
		return err
	}
	w.portsLater = r.IntN(3) == 0
	service := uint32(1)
	for _, ipv6 := range []bool{false, true} {
		for _, proto := range []uint8{protoTCP, protoUDP, protoTCP, protoUDP, protoSCTP} {
			if err := w.addService(r, k, newService(r, service, proto, ipv6)); err != nil {
				return err
			}
			service++
		}
	}
	if err := errors.Join(w.setPorts(r, k), w.populateNode(r, k)); err != nil {
		return err
	}
	for _, d := range w.devices {
		if err := w.setDevice(r, k, d, d.index != 1 || r.IntN(8) > 0); err != nil {
			return err
		}
	}
	return nil
}

// put writes a backend. Without hash, the id becomes free: the rest of the
// record stays.
func (w *world) put(k *kernel, id uint32, b backend) error {
	if old := w.backends[id]; old.Hash != b.Hash && old.Hash != 0 {
		delete(w.ids, old.Hash)
	}
	w.backends[id] = b
	if b.Hash != 0 {
		w.ids[b.Hash] = id
	}
	return backends.Put(k.Backends, k.BackendIds, k.IdsFactor, id, b.LBBackend)
}

// serve enters a frontend, and its address's marker if it has one.
func (w *world) serve(k *kernel, f frontend, flags uint32) error {
	entries := map[vipKey]bpf.LBVip{f.key(): {Service: f.service, Flags: flags}}
	if !f.isNodePort() {
		entries[vipKey{Addr: f.Addr().As16()}] = bpf.LBVip{}
	}
	for key, v := range entries {
		w.vips[key] = v
		if err := k.Vips.Put(key, v); err != nil {
			return err
		}
	}
	return nil
}
