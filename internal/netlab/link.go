// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// SetMTU sets a device's MTU, in bytes.
func (n *Namespace) SetMTU(device string, mtu int) error {
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	if err := n.handle.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set MTU %d on %s in namespace %s: %w", mtu, device, n.Name, err)
	}
	return nil
}

// LimitRoute gives an address behind a device a path MTU, in bytes, that the
// namespace keeps to when it forwards (ip-route(8), "mtu lock"): as a narrow
// link further on would, of which neither end of this one knows.
func (n *Namespace) LimitRoute(device string, to netip.Addr, mtu int) error {
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	route := &netlink.Route{Dst: host(to), LinkIndex: link.Attrs().Index, MTU: mtu, MTULock: true, Scope: netlink.SCOPE_LINK}
	if err := n.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("limit %s to %d bytes in namespace %s: %w", to, mtu, n.Name, err)
	}
	return nil
}

// SetNeighbour says for good which Ethernet address an address behind a device has.
func (n *Namespace) SetNeighbour(device string, addr netip.Addr, mac net.HardwareAddr) error {
	index, err := n.Ifindex(device)
	if err != nil {
		return err
	}
	neighbour := &netlink.Neigh{LinkIndex: index, IP: addr.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: mac}
	if err := n.handle.NeighSet(neighbour); err != nil {
		return fmt.Errorf("set neighbour %s on %s in namespace %s: %w", addr, device, n.Name, err)
	}
	return nil
}

// Refuse makes the namespace answer packets to an address with ICMP
// unreachable, until mend is called.
func (n *Namespace) Refuse(addr netip.Addr) (mend func() error, err error) {
	route := &netlink.Route{Dst: host(addr), Type: unix.RTN_UNREACHABLE}
	if err := n.handle.RouteAdd(route); err != nil {
		return nil, fmt.Errorf("refuse %s in namespace %s: %w", addr, n.Name, err)
	}
	return func() error { return n.handle.RouteDel(route) }, nil
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// PassXDP gives a device an XDP program that passes all frames, for as long as the
// device is there. A veth takes frames that the other end's XDP sends only while it has
// one.
func (n *Namespace) PassXDP(device string) error {
	const pass = 2 // XDP_PASS
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "pass", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}})
	if err != nil {
		return fmt.Errorf("load an XDP program: %w", err)
	}
	defer prog.Close()
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	err = n.Do(func() error { return netlink.LinkSetXdpFdWithFlags(link, prog.FD(), nl.XDP_FLAGS_DRV_MODE) })
	if err != nil {
		return fmt.Errorf("give %s in namespace %s an XDP program: %w", device, n.Name, err)
	}
	return nil
}

// Offload is a feature of a device, as the command that sets it
// (linux/ethtool.h).
type Offload uint32

// What a device does for the stack: checksums of what it receives and sends,
// scatter and gather, segmentation of TCP and in general, and the merging of
// what it receives.
const (
	RxChecksum Offload = 0x15
	TxChecksum Offload = 0x17
	Scatter    Offload = 0x19
	TSO        Offload = 0x1f
	GSO        Offload = 0x24
	GRO        Offload = 0x2c
)

// SetOffload turns a feature of a device on or off, and checks that it is. The
// kernel turns off what depends on it, too.
func (n *Namespace) SetOffload(device string, o Offload, on bool) error {
	value := uint32(0)
	if on {
		value = 1
	}
	err := n.Do(func() error {
		if _, err := ethtool(device, uint32(o), value); err != nil {
			return err
		}
		// each command that sets follows the one that gets
		got, err := ethtool(device, uint32(o)-1, 0)
		if err == nil && got != value {
			err = fmt.Errorf("it is %d afterwards", got)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("set feature %#x of %s in namespace %s to %v: %w", uint32(o), device, n.Name, on, err)
	}
	return nil
}

// ethtool sends a command whose argument is one word (ethtool_value), and
// returns the word.
func ethtool(device string, command, value uint32) (uint32, error) {
	if len(device) >= unix.IFNAMSIZ {
		return 0, fmt.Errorf("device name %q: longer than %d bytes", device, unix.IFNAMSIZ-1)
	}
	arg := [2]uint32{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		arg  unsafe.Pointer
		_    [16]byte // the rest of the kernel's union
	}{arg: unsafe.Pointer(&arg)}
	copy(request.name[:], device)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&arg)
	if errno != 0 {
		return 0, errno
	}
	return arg[1], nil
}

// Commands and bits of linux/ethtool.h for VLAN tags.
const (
	getFlags = 0x25
	setFlags = 0x26
	vlanTx   = 1 << 7
	vlanRx   = 1 << 8
)

// SetVLANOffload says whether a device keeps VLAN tags beside the packet or in
// it, both ways.
func (n *Namespace) SetVLANOffload(device string, on bool) error {
	err := n.Do(func() error {
		flags, err := ethtool(device, getFlags, 0)
		if err != nil {
			return err
		}
		flags &^= vlanTx | vlanRx
		if on {
			flags |= vlanTx | vlanRx
		}
		if _, err := ethtool(device, setFlags, flags); err != nil {
			return err
		}
		got, err := ethtool(device, getFlags, 0)
		if err == nil && got != flags {
			err = fmt.Errorf("its flags are %#x afterwards, want %#x", got, flags)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("set VLAN offload of %s in namespace %s to %v: %w", device, n.Name, on, err)
	}
	return nil
}

// AddVLAN makes a VLAN device on a device, up and without addresses. The kernel
// needs 8021q.
func (n *Namespace) AddVLAN(lower, name string, id int) error {
	link, err := n.handle.LinkByName(lower)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", lower, n.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, link.Attrs().Index
	if err := n.handle.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		return fmt.Errorf("make VLAN %d on %s in namespace %s: %w", id, lower, n.Name, err)
	}
	if err := n.setUpDevice(name); err != nil {
		return err
	}
	return n.waitUp(name)
}
