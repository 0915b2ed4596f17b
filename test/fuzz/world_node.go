// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"

	"github.com/waggle-lb/waggle/bpf"
)

// What a configuration says of this machine, not of a service.

// setPorts says which ports may stand for a client's.
func (w *world) setPorts(r *rand.Rand, k *kernel) error {
	n := []int{0, 1, 3, 8, 64, 100}[r.IntN(6)]
	old := w.ports
	w.ports = nil
	for i := range n {
		w.ports = append(w.ports, uint16(40000+i))
	}
	if err := k.MasqPorts.Put(uint32(0), uint64(n)); err != nil {
		return err
	}
	for i := 0; i < n; i += 4 {
		var word uint64
		for j, port := range w.ports[i:min(i+4, n)] {
			word |= uint64(port) << (16 * j)
		}
		if err := k.MasqPorts.Put(uint32(1+i/4), word); err != nil {
			return err
		}
	}
	words := map[uint32]uint64{}
	for _, port := range old {
		words[uint32(port>>6)] = 0
	}
	for _, port := range w.ports {
		words[uint32(port>>6)] |= 1 << (port & 63)
	}
	for at, word := range words {
		if err := k.MasqPorts.Put(uint32(bpf.LBLimitsMASQ_BITS)+at, word); err != nil {
			return err
		}
	}
	return nil
}

// setDevice gives a device the node's addresses, or none. Some have pods behind
// them.
func (w *world) setDevice(r *rand.Rand, k *kernel, d *device, has bool) error {
	d.addr4, d.addr6, d.flags = addr{}, addr{}, 0
	if r.IntN(4) == 0 {
		d.flags = devicePod
	}
	if has {
		d.addr4, d.addr6 = w.nodes[0].As16(), w.nodes[1].As16()
	}
	return k.Devices.Put(d.index, bpf.LBDevice{Addr4: d.addr4, Addr6: d.addr6, Flags: d.flags})
}

// assign says what an address is to this machine; 0: nothing.
func (w *world) assign(k *kernel, a addr, flags uint32) error {
	was := w.nodeAddrs[a]
	w.nodeAddrs[a] = flags
	if flags > 0 {
		return k.NodeAddrs.Put(a, flags)
	}
	if was > 0 {
		return k.NodeAddrs.Delete(a)
	}
	return nil
}

// setTimeouts says how long idle flows live.
func (w *world) setTimeouts(k *kernel, t [16]uint32) error {
	w.timeouts = t
	return k.Meta.Put(uint32(0), bpf.LBClocks{Layout: uint32(bpf.LBLimitsLAYOUT_VERSION), Hz: hz, Timeouts: t})
}

// otherTimeouts change what users may say, and seldom what they may not.
func (w *world) otherTimeouts(r *rand.Rand) [16]uint32 {
	t := ipvsTimeouts
	t[bpf.LBFlowStateSTATE_ESTABLISHED] = pick[uint32](r, 900, 900, 20, 86400)
	t[bpf.LBFlowStateSTATE_FIN_WAIT] = pick[uint32](r, 120, 5)
	t[bpf.LBFlowStateSTATE_UDP] = pick[uint32](r, 300, 300, 15)
	if r.IntN(4) == 0 {
		t[r.IntN(len(t))] = 0
	}
	return t
}
