// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	moby "github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
)

// machine is the kernel by netlink: IPVS, our device and our table. Not safe for
// concurrent use.
type machine struct {
	*moby.Handle
	device *nlx.Dummy
	*table
}

var _ kernel = (*machine)(nil)

func (m *machine) addAddress(a netip.Addr) error { return m.device.Add(a) }

func (m *machine) delAddress(a netip.Addr) error { return m.device.Delete(a) }

func serviceAt(k key) *moby.Service {
	s := &moby.Service{
		Address: net.IP(k.addr.Addr().AsSlice()), Protocol: uint16(k.proto), Port: k.addr.Port(), AddressFamily: unix.AF_INET,
		Netmask: binary.NativeEndian.Uint32([]byte{255, 255, 255, 255}),
	}
	if k.addr.Addr().Is6() {
		s.AddressFamily, s.Netmask = unix.AF_INET6, 128
	}
	return s
}

// service is what the kernel takes. The mask is in network byte order for IPv4,
// for IPv6 it is the number of bits.
func (s settings) service(k key) *moby.Service {
	out := serviceAt(k)
	out.SchedName, out.Flags, out.Timeout = s.scheduler, s.flags, s.timeout
	out.Netmask = uint32(s.prefix)
	if k.addr.Addr().Is4() {
		out.Netmask = binary.NativeEndian.Uint32(net.CIDRMask(int(s.prefix), 32))
	}
	return out
}

func settingsFrom(s *moby.Service) settings {
	out := settings{scheduler: s.SchedName, flags: s.Flags &^ flagHashed, timeout: s.Timeout, prefix: uint8(s.Netmask)}
	if s.AddressFamily == unix.AF_INET {
		ones, _ := net.IPMask(binary.NativeEndian.AppendUint32(nil, s.Netmask)).Size()
		out.prefix = uint8(ones)
	}
	if out.flags&flagPersistent == 0 {
		out.timeout = 0
	}
	return out
}

// keyFrom returns the key of a virtual service; false if it is one of marks.
func keyFrom(s *moby.Service) (key, bool) {
	a, ok := netip.AddrFromSlice(s.Address)
	return key{netip.AddrPortFrom(a, s.Port), lb.Protocol(s.Protocol)}, ok && s.FWMark == 0
}

func destination(d dest) *moby.Destination {
	return &moby.Destination{
		Address: net.IP(d.addr.Addr().AsSlice()), Port: d.addr.Port(), Weight: int(d.weight), ConnectionFlags: moby.ConnFwdMasq,
		UpperThreshold: d.upper, LowerThreshold: d.lower,
	}
}

func (m *machine) newVirtual(k key, s settings) error {
	err := m.NewService(s.service(k))
	if errors.Is(err, unix.EEXIST) {
		return errForeign
	}
	return schedulerError(s, err)
}

func (m *machine) setVirtual(k key, s settings) error {
	return schedulerError(s, m.UpdateService(s.service(k)))
}

// schedulerError says which module is missing.
func schedulerError(s settings, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: the kernel lacks scheduler %s: modprobe ip_vs_%s, or write another", err, s.scheduler, s.scheduler)
	}
	return err
}

func (m *machine) delVirtual(k key) error { return ignoring(m.DelService(serviceAt(k)), unix.ESRCH) }

func (m *machine) newDest(k key, d dest) error {
	err := m.NewDestination(serviceAt(k), destination(d))
	if errors.Is(err, unix.EEXIST) { // left by an attempt whose answer was lost
		return m.setDest(k, d)
	}
	return err
}

func (m *machine) setDest(k key, d dest) error {
	return m.UpdateDestination(serviceAt(k), destination(d))
}

func (m *machine) delDest(k key, d dest) error {
	return ignoring(m.DelDestination(serviceAt(k), destination(d)), unix.ENOENT)
}

func ignoring(err error, ignored unix.Errno) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

func (m *machine) loads(k key) ([]load, error) {
	list, err := m.GetDestinations(serviceAt(k))
	if err != nil {
		return nil, err
	}
	out := make([]load, 0, len(list))
	for _, d := range list {
		a, ok := netip.AddrFromSlice(d.Address)
		if !ok {
			return nil, fmt.Errorf("the kernel's list of servers has an address of %d bytes", len(d.Address))
		}
		out = append(out, load{
			dest:     dest{netip.AddrPortFrom(a, d.Port), uint16(d.Weight), d.UpperThreshold, d.LowerThreshold},
			active:   uint64(d.ActiveConnections),
			inactive: uint64(d.InactiveConnections), connections: uint64(d.Stats.Connections),
			inPackets: uint64(d.Stats.PacketsIn), inBytes: d.Stats.BytesIn, outPackets: uint64(d.Stats.PacketsOut), outBytes: d.Stats.BytesOut,
		})
	}
	return out, nil
}

// setTimeouts sets those that are given; the kernel leaves those that are 0.
func (m *machine) setTimeouts(o *Options) error {
	if o.TCP == 0 && o.TCPFin == 0 && o.UDP == 0 {
		return nil
	}
	if err := m.SetConfig(&moby.Config{TimeoutTCP: o.TCP, TimeoutTCPFin: o.TCPFin, TimeoutUDP: o.UDP}); err != nil {
		return fmt.Errorf("set the timeouts of IPVS: %w", err)
	}
	return nil
}
