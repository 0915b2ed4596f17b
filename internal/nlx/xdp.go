// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// XDP is the program of a device that sees frames before anybody else.
type XDP struct {
	Program uint32 // its id; 0: there is none
	// Generic says that it runs behind the stack's buffers, not in the driver.
	Generic bool
}

func xdpOf(a *netlink.LinkAttrs) (x XDP) {
	if a.Xdp != nil && a.Xdp.Attached {
		x = XDP{a.Xdp.ProgId, a.Xdp.AttachMode == nl.XDP_ATTACHED_SKB}
	}
	return x
}

// Features are bits of what a driver can do with XDP (enum netdev_xdp_act of
// linux/netdev.h).
type Features uint64

// Those that matter here.
const (
	// Transmits says that frames of other devices can be sent by this one, and
	// TransmitsPieces that they may be in several pieces.
	Transmits       Features = 1 << 2
	TransmitsPieces Features = 1 << 6
	// ReceivesPieces says that a program gets frames in several pieces.
	ReceivesPieces Features = 1 << 5
)

// Of linux/netdev.h.
const (
	netdevFamily   = "netdev"
	netdevGet      = 1 // NETDEV_CMD_DEV_GET
	netdevIndex    = 1 // NETDEV_A_DEV_IFINDEX
	netdevFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES
)

// ErrNoFeatures says that the kernel does not tell them: it is older than 6.3.
var ErrNoFeatures = errors.New("the kernel does not tell what drivers can do with XDP")

// XDPFeatures asks what a device of the calling thread's network namespace can do
// with XDP. With many drivers that is more once a program is attached.
func XDPFeatures(ifindex int) (Features, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return 0, ErrNoFeatures
	}
	if err != nil {
		return 0, fmt.Errorf("ask the kernel for XDP's features: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	head := [2]nl.Genlmsg{{Command: netdevGet, Version: uint8(family.Version)}} // it is serialised with the two bytes behind it
	req.AddData(&head[0])
	req.AddData(nl.NewRtAttr(netdevIndex, nl.Uint32Attr(uint32(ifindex))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask the kernel for XDP's features of device %d: %w", ifindex, err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("read XDP's features of device %d: %w", ifindex, err)
		}
		for _, a := range attrs {
			if a.Attr.Type&nl.NLA_TYPE_MASK == netdevFeatures && len(a.Value) == 8 {
				return Features(binary.NativeEndian.Uint64(a.Value)), nil
			}
		}
	}
	return 0, ErrNoFeatures
}

// PeerXDP returns the program of a veth's other end, which may be in another
// network namespace: the calling thread's one must have a name for that
// (IFLA_LINK_NETNSID), and the kernel may refuse with EPERM.
func PeerXDP(l Link) (XDP, error) {
	if l.PeerNamespace < 0 {
		peer, err := netlink.LinkByIndex(l.Parent)
		if err != nil {
			return XDP{}, fmt.Errorf("look at the other end of %s: %w", l.Name, err)
		}
		return xdpOf(peer.Attrs()), nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Parent)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(l.PeerNamespace))))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return XDP{}, fmt.Errorf("look at the other end of %s, in network namespace id %d: %w", l.Name, l.PeerNamespace, err)
	}
	if len(msgs) == 0 {
		return XDP{}, fmt.Errorf("look at the other end of %s: no answer", l.Name)
	}
	peer, err := netlink.LinkDeserialize(nil, msgs[0])
	if err != nil {
		return XDP{}, fmt.Errorf("read the other end of %s: %w", l.Name, err)
	}
	return xdpOf(peer.Attrs()), nil
}

// Of linux/ethtool.h.
const (
	ethtoolGetFlags = 0x25
	flagRxVLAN      = 1 << 8
)

// TakesTagsOff reports whether a device of the calling thread's network namespace
// takes VLAN tags off frames before a program sees them (rx-vlan-offload).
func TakesTagsOff(name string) (bool, error) {
	value := struct{ command, data uint32 }{command: ethtoolGetFlags}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // struct ifreq is longer
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&value)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("ask for rx-vlan-offload of %s: %w", name, err)
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	switch errno {
	case 0:
		return value.data&flagRxVLAN != 0, nil
	case unix.EOPNOTSUPP:
		return false, nil // it has no offloads
	}
	return false, fmt.Errorf("ask for rx-vlan-offload of %s: %w", name, errno)
}
