// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// source returns the address if packets may carry it as their source to other
// machines.
func source(a netlink.Addr) (netip.Addr, bool) {
	const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Scope != int(netlink.SCOPE_UNIVERSE) || a.Flags&unusable != 0 || ip.IsLinkLocalUnicast() {
		return netip.Addr{}, false
	}
	return ip.Unmap(), true
}

// uplinks asks the routing tables for the source of packets to an address that
// is nobody's (RFC 5737, RFC 3849): only default routes lead there.
func uplinks(h *netlink.Handle) []netip.Addr {
	var out []netip.Addr
	for _, nowhere := range []string{"192.0.2.1", "2001:db8::1"} {
		routes, err := h.RouteGet(netip.MustParseAddr(nowhere).AsSlice())
		if err != nil {
			continue // no default route of this family, or no such family
		}
		for _, r := range routes {
			if ip, ok := netip.AddrFromSlice(r.Src); ok && ip.IsGlobalUnicast() {
				out = append(out, ip.Unmap())
				break
			}
		}
	}
	return out
}
