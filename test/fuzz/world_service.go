// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/bits"
)

// service is a service, what it says, and the runs that its pool words name.
type service struct {
	ID      uint32
	Hash    uint64
	proto   uint8
	v6      bool
	anyPort bool // its frontends may have port 0, and its backends

	affinity        uint32 // seconds; 0: none
	prefix, options uint8

	scheduler      string // "": its runs are none of a scheduler's
	schedulerFlags lb.SchedulerFlags
	heavy, limited bool     // its backends have large weights, and small thresholds
	list           []uint32 // its records, in a pool or not; the newest first
	local          bool     // what it has on this node is published apart
	sources        []network
	compiled       [2]*sched.Run
	pools          [2]pool // of all nodes, of this one
	late           bool    // the pools are older than the records
	away           bool    // the service is gone: its records stay for its flows
}

const (
	poolCluster = bpf.LBPoolsPOOL_CLUSTER
	poolLocal   = bpf.LBPoolsPOOL_LOCAL
)

// in is the pool that a pick is from: while none is published for this node, all.
func (s *service) in(which bpf.LBPools) *pool {
	if which == poolLocal && s.pools[1].word() != 0 {
		return &s.pools[1]
	}
	return &s.pools[0]
}

func (s *service) has(option uint8) bool { return s.options&option != 0 }

// pick is one of a list.
func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func newService(r *rand.Rand, id uint32, proto uint8, ipv6 bool) *service {
	s := &service{ID: id, Hash: 0x5000 + uint64(id), proto: proto, v6: ipv6, anyPort: r.IntN(4) == 0}
	s.bind(r)
	s.configure(r)
	return s
}

// bind gives a service a scheduler.
func (s *service) bind(r *rand.Rand) {
	s.scheduler, s.schedulerFlags = pick(r, append(sched.Names(), "", "")...), 0
	if s.scheduler == "sh" || s.scheduler == "mh" {
		s.schedulerFlags = lb.SchedulerFlags(r.IntN(4))
	}
	s.heavy, s.limited, s.local = r.IntN(4) == 0, r.IntN(4) == 0, r.IntN(4) > 0
}

// configure gives a service other settings. Some are of protocols that do not
// know them.
func (s *service) configure(r *rand.Rand) {
	s.affinity = pick[uint32](r, 0, 0, 0, 1, 7, 30, 61, 300)
	if s.anyPort && r.IntN(4) > 0 {
		s.affinity = 30
	}
	s.prefix = 96 + pick[uint8](r, 32, 32, 31, 24, 8, 0)
	if s.v6 {
		s.prefix = pick[uint8](r, 128, 128, 127, 126, 64, 32, 31, 1, 0)
	}
	s.options = pick[uint8](r, 0, lostReset, lostReset, lostDrop) | pick[uint8](r, 0, reuseFinished, reuseNever) | pick[uint8](r, 0, keepQuiesced) | pick[uint8](r, 0, 0, lapses)
	if r.IntN(12) == 0 || s.proto == protoUDP && r.IntN(3) == 0 {
		s.options |= onePacket
	}
}

func (s *service) weight(r *rand.Rand) uint16 {
	if s.heavy {
		return pick[uint16](r, 0, 1, 2, 50, 75, 100)
	}
	return uint16(r.IntN(4))
}

func (s *service) thresholds(r *rand.Rand) (upper, lower uint32) {
	if n := r.IntN(8); !s.limited && n > 2 || s.limited && n == 0 {
		return 0, 0
	}
	upper = pick[uint32](r, 1, 1, 2, 2, 3, 5)
	if !s.limited {
		upper = pick[uint32](r, 2, 5, 9, 30)
	}
	if r.IntN(2) == 0 {
		lower = 1 + r.Uint32N(upper)
	}
	return upper, lower
}

func (w *world) putService(k *kernel, s *service) error {
	return k.Services.Put(s.ID, bpf.LBService{Hash: s.Hash, Pool: s.pools[0].word(), Local: s.pools[1].word(),
		Affinity: s.affinity, Prefix: s.prefix, Options: s.options})
}

func (w *world) addService(r *rand.Rand, k *kernel, s *service) error {
	w.services[s.ID] = s
	for i := range byte(1 + r.IntN(4)) {
		if err := w.addBackend(r, k, s, i+1); err != nil {
			return err
		}
	}
	if err := w.compile(r, k, s); err != nil {
		return err
	}
	for i := range byte(2) {
		if err := w.addFrontend(r, k, s, i); err != nil {
			return err
		}
	}
	if err := w.restrict(r, k, s); err != nil {
		return err
	}
	return w.addNodePorts(r, k, s)
}

// needPort tells the programs of a backend that may answer from any port.
func (w *world) needPort(k *kernel, port uint16) error {
	if port != 0 || w.anyPort {
		return nil
	}
	w.anyPort = true
	return k.AnyPort.Set(uint32(1))
}

// port is that of a service's n-th backend.
func (s *service) port(n byte) uint16 {
	switch {
	case s.anyPort && (s.proto == protoSCTP || n%2 == 0):
		return 0
	case s.proto == protoSCTP: // it keeps its ports
		return 80
	}
	return 8080
}

func (w *world) addBackend(r *rand.Rand, k *kernel, s *service, host byte) error {
	at := netip.AddrPortFrom(v4(8, 0, 1, host), s.port(host))
	if s.v6 {
		at = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 4: 0x86, 5: 0xdd, 14: 1, 15: host}), at.Port())
	}
	if host > 1 && r.IntN(3) == 0 { // of the machine's own network
		at = netip.AddrPortFrom(w.node(s.v6), at.Port())
	}
	if err := w.setPeerBit(k, at.Addr()); err != nil {
		return err
	}
	mark := bits.Backend(at, lb.Protocol(s.proto))
	w.backendBits.set(mark)
	w.masqBits.set(mark)
	if err := errors.Join(bits.Put(k.BackendBits, mark), bits.Put(k.MasqBits, mark)); err != nil {
		return err
	}
	w.lastID++
	id := w.lastID
	s.list, w.endpoints = slices.Insert(s.list, 0, id), append(w.endpoints, at)
	one := backend{bpf.LBBackend{Hash: 0xb000 + uint64(id), Addr: at.Addr().As16(), Port: at.Port(), Weight: s.weight(r), Service: s.ID, State: stActive, Outside: outside(r)}}
	one.Upper, one.Lower = s.thresholds(r)
	if at.Port() == 0 && w.portsLater {
		w.gone = append(w.gone, goneBackend{s.ID, id, one})
		return nil
	}
	if err := w.needPort(k, at.Port()); err != nil {
		return err
	}
	return w.put(k, id, one)
}

func (w *world) addFrontend(r *rand.Rand, k *kernel, s *service, n byte) error {
	ip := v4(198, 18, 255, 10+n)
	if s.v6 {
		ip = v6(0x0f, 10+n)
	}
	at := netip.AddrPortFrom(ip, pick[uint16](r, 80, 443, 80, 53))
	if s.proto == protoSCTP {
		at = netip.AddrPortFrom(ip, 80)
	}
	if s.anyPort && (s.proto == protoSCTP || r.IntN(3) > 0) {
		at = netip.AddrPortFrom(ip, 0)
	}
	return w.enter(r, k, frontend{at, s.proto, s.ID})
}

// enter serves at a frontend, unless another service has it.
func (w *world) enter(r *rand.Rand, k *kernel, f frontend) error {
	for _, old := range w.frontends {
		if old.key() == f.key() {
			return nil
		}
	}
	w.frontends = append(w.frontends, f)
	if f.isNodePort() {
		w.nodePorts[f.Port()] = true
		if err := bits.Put(k.NodePortBits, bits.Port(f.Port())); err != nil {
			return err
		}
	} else if err := w.setVIPBit(k, f.Addr()); err != nil {
		return err
	}
	return w.serve(k, f, vipFlags(r))
}

func (w *world) setVIPBit(k *kernel, a netip.Addr) error {
	w.vipBits.set(bits.Addr(a))
	return bits.Put(k.VipBits, bits.Addr(a))
}

func (w *world) setPeerBit(k *kernel, a netip.Addr) error {
	w.peerBits.set(bits.Addr(a))
	return bits.Put(k.PeerBits, bits.Addr(a))
}
