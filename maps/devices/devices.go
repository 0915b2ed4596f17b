// SPDX-License-Identifier: Apache-2.0

// Package devices handles the hash of what programs must know of a network
// device.
package devices

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// Device is one network device.
type Device struct {
	// Addr4 and Addr6 are what packets that leave by it are masqueraded with.
	// An invalid address says that nothing of that family fits.
	Addr4, Addr6 netip.Addr
	// Bridge says that it is a bridge.
	Bridge bool
	// Pod says that pods of this machine send by it.
	Pod bool
	// PortOf is the Ethernet address of the bridge that it is a port of; zero
	// if it is none.
	PortOf [6]byte
	// XDP is the device's own Ethernet address if XDP runs there; zero if not. No
	// port of a bridge has it. Generic and Native say how: natively it takes frames of
	// others, and if Pieces says so, those in several pieces too.
	XDP                     [6]byte
	Generic, Native, Pieces bool
}

func (d Device) value() bpf.LBDevice {
	v := bpf.LBDevice{Addr4: bytes(d.Addr4), Addr6: bytes(d.Addr6), Mac: d.PortOf}
	if d.Bridge {
		v.Flags |= uint8(bpf.LBDeviceFlagsDEVICE_BRIDGE)
	}
	if d.Pod {
		v.Flags |= uint8(bpf.LBDeviceFlagsDEVICE_POD)
	}
	if d.PortOf != [6]byte{} {
		v.Flags |= uint8(bpf.LBDeviceFlagsDEVICE_PORT)
	}
	if d.XDP != [6]byte{} {
		v.Mac = d.XDP
		v.Flags |= uint8(bpf.LBDeviceFlagsDEVICE_XDP)
	}
	for flag, set := range map[bpf.LBDeviceFlags]bool{
		bpf.LBDeviceFlagsDEVICE_GENERIC: d.Generic, bpf.LBDeviceFlagsDEVICE_NATIVE: d.Native, bpf.LBDeviceFlagsDEVICE_FRAGS: d.Pieces,
	} {
		if set {
			v.Flags |= uint8(flag)
		}
	}
	return v
}

// Table is the map devices. One goroutine writes.
type Table struct{ Map *ebpf.Map }

// Sync makes the map hold exactly the given devices, by ifindex. What does not
// change is not written. It goes on after an error and returns all.
func (t Table) Sync(want map[uint32]Device) error {
	have := make(map[uint32]bpf.LBDevice)
	err := batch.Each(t.Map, func(index uint32, d *bpf.LBDevice) error {
		have[index] = *d
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for index := range have { // first: it makes room
		if _, ok := want[index]; ok {
			continue
		}
		if err := t.Map.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete device %d from map %s: %w", index, t.Map, err))
		}
	}
	for index, d := range want {
		v := d.value()
		if old, ok := have[index]; ok && old == v {
			continue
		}
		if err := t.Map.Put(index, v); err != nil {
			errs = append(errs, fmt.Errorf("write device %d to map %s: %w", index, t.Map, err))
		}
	}
	return errors.Join(errs...)
}

func bytes(a netip.Addr) (b [16]byte) {
	if a.IsValid() {
		b = a.As16()
	}
	return b
}
