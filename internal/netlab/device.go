// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeDevice is a node's only device besides lo.
const nodeDevice = "eth0"

// linkTimeout bounds the wait for a new pair to be usable. The kernel reports
// the carrier from a work queue, at most once a second (net/core/link_watch.c).
const linkTimeout = 10 * time.Second

// AddDevice makes a veth pair with one end in a and the other in b and returns
// when both are up. It has no addresses; AddAddr gives it some.
func AddDevice(a *Namespace, nameA string, b *Namespace, nameB string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	attrs.Flags = unix.IFF_UP
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b.ns))}
	if err := a.handle.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth pair %s and %s: %w", nameA, nameB, err)
	}
	if err := b.setUpDevice(nameB); err != nil {
		return err
	}
	if err := a.setUpDevice(nameA); err != nil {
		return err
	}
	if err := a.waitUp(nameA); err != nil {
		return err
	}
	return b.waitUp(nameB)
}

// DelDevice removes a device of the namespace, and with a veth its peer.
func (n *Namespace) DelDevice(name string) error {
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", name, n.Name, err)
	}
	if err := n.handle.LinkDel(link); err != nil {
		return fmt.Errorf("remove device %s in namespace %s: %w", name, n.Name, err)
	}
	return nil
}

// Ifindex returns the index of a device of the namespace.
func (n *Namespace) Ifindex(device string) (int, error) {
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	return link.Attrs().Index, nil
}

// Netlink returns a handle for route netlink in the namespace, from whatever
// thread. The namespace owns it: do not close it.
func (n *Namespace) Netlink() *netlink.Handle { return n.handle }

// AddAddr gives the device an address and the route to its subnet. An IPv6
// address is usable at once: duplicate address detection is left out.
func (n *Namespace) AddAddr(device string, prefix netip.Prefix) error {
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	addr, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return err
	}
	if prefix.Addr().Is6() {
		addr.Flags |= unix.IFA_F_NODAD
	}
	if err := n.handle.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s in namespace %s: %w", prefix, device, n.Name, err)
	}
	return nil
}

func (n *Namespace) setUpDevice(name string) error {
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s in namespace %s: %w", name, n.Name, err)
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in namespace %s: %w", name, n.Name, err)
	}
	return nil
}

// waitUp waits until the kernel has seen the carrier: before that, IPv6 sends
// no neighbour solicitations on the device (addrconf: "link is not ready").
func (n *Namespace) waitUp(name string) error {
	deadline := time.Now().Add(linkTimeout)
	for {
		link, err := n.handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find device %s in namespace %s: %w", name, n.Name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("device %s in namespace %s is %s after %v, want up", name, n.Name, link.Attrs().OperState, linkTimeout)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
