// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dummy is a dummy device that holds addresses which nobody announces: they make
// packets to them local. Its alias, which `ip link` shows, is the owner's.
type Dummy struct {
	h    *netlink.Handle
	link netlink.Link
}

// OpenDummy takes the device of this name in the calling thread's network namespace,
// or makes it with this alias. One that is there must have an alias that begins with
// the same word: else it is another's.
func OpenDummy(name, alias string) (*Dummy, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	d := &Dummy{h: h}
	if err := d.open(name, alias); err != nil {
		h.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dummy) open(name, alias string) error {
	found, err := FindDummy(name)
	if err != nil {
		return err
	}
	if found != "" {
		if own, _, _ := strings.Cut(alias, " "); !strings.HasPrefix(found+" ", own+" ") {
			return fmt.Errorf("device %s has the alias %q, not ours: it is another's, rename or remove it", name, found)
		}
	} else if err := d.create(name, alias); err != nil {
		return err
	}
	if d.link, err = d.h.LinkByName(name); err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := d.h.LinkSetUp(d.link); err != nil {
		return fmt.Errorf("set device %s up: %w", name, err)
	}
	return nil
}

func (d *Dummy) create(name, alias string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Alias = name, alias
	link := &netlink.Dummy{LinkAttrs: attrs}
	if err := d.h.LinkAdd(link); err != nil {
		return fmt.Errorf("add dummy device %s: %w: it takes CAP_NET_ADMIN and the module dummy", name, err)
	}
	err := errors.Join(d.h.LinkSetAlias(link, alias), d.h.LinkSetARPOff(link))
	if err != nil {
		return fmt.Errorf("set up device %s: %w", name, err)
	}
	return nil
}

// FindDummy returns the alias of a device in the calling thread's network namespace,
// "" if there is none. One that is no dummy, or has no alias, is an error.
func FindDummy(name string) (alias string, err error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find device %s: %w", name, err)
	case link.Type() != "dummy" || link.Attrs().Alias == "":
		return "", fmt.Errorf("device %s is there and not ours (type %s, alias %q): rename or remove it", name, link.Type(), link.Attrs().Alias)
	}
	return link.Attrs().Alias, nil
}

// Index is the device's.
func (d *Dummy) Index() int { return d.link.Attrs().Index }

// Name is the device's.
func (d *Dummy) Name() string { return d.link.Attrs().Name }

// Alias is the device's: what it was made with.
func (d *Dummy) Alias() string { return d.link.Attrs().Alias }

// Add adds an address; one that is there is none the worse for it. Nothing else
// takes it as the source of its packets.
func (d *Dummy) Add(a netip.Addr) error {
	err := d.h.AddrAdd(d.link, single(a))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s to device %s: %w", a, d.Name(), err)
	}
	return nil
}

// Delete removes an address, if it is there.
func (d *Dummy) Delete(a netip.Addr) error {
	err := d.h.AddrDel(d.link, single(a))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete address %s from device %s: %w", a, d.Name(), err)
	}
	return nil
}

// Remove removes the device, and its addresses with it.
func (d *Dummy) Remove() error {
	if err := d.h.LinkDel(d.link); err != nil {
		return fmt.Errorf("remove device %s: %w", d.Name(), err)
	}
	return nil
}

// Close releases the handle. The device stays.
func (d *Dummy) Close() { d.h.Close() }

// single is one address as the kernel takes it: not for the source of packets to
// elsewhere, and of IPv6 usable at once.
func single(a netip.Addr) *netlink.Addr {
	bits := a.BitLen()
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, bits)}}
	if a.Is4() {
		out.Scope = unix.RT_SCOPE_HOST
		return out
	}
	out.Flags = unix.IFA_F_NODAD
	out.ValidLft, out.PreferedLft = 1<<32-1, 0
	return out
}

// HasGenericFamily says whether the kernel has a family of generic netlink: nil if
// it does.
func HasGenericFamily(name string) error {
	if _, err := netlink.GenlFamilyGet(name); err != nil {
		return fmt.Errorf("find netlink family %s: %w", name, err)
	}
	return nil
}
