// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"net/netip"

	netutils "k8s.io/utils/net"

	"github.com/waggle-lb/waggle/lb"
)

var (
	errNoAddress = errors.New("not an IP address")
	errNoNetwork = errors.New("not a network such as 192.0.2.0/24")
)

// parseAddr reads an address as the API server does: objects of old clusters have
// leading zeros, and IPv4 addresses in IPv6 form.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		sloppy, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(s))
		if !ok {
			return netip.Addr{}, errNoAddress
		}
		a = sloppy
	}
	if a.Zone() != "" {
		return netip.Addr{}, errNoAddress
	}
	return a.Unmap(), nil
}

// parseVIP reads an address at which a service may be reached. The unspecified
// address is none: to the model it means node ports.
func parseVIP(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	switch {
	case err != nil:
		return a, err
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast():
		return a, fmt.Errorf("%s is no address that a service can have", a)
	}
	return a, nil
}

// parsePrefix reads a network as the API server does, and masks it.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return p.Masked(), nil
	}
	_, n, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, errNoNetwork
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if a.Is4In6() {
		a, bits = a.Unmap(), bits-96
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return p, errNoNetwork
	}
	return p, nil
}

func ofFamily(prefixes []netip.Prefix, f lb.Family) (out []netip.Prefix) {
	for _, p := range prefixes {
		if lb.FamilyOf(p.Addr()) == f {
			out = append(out, p)
		}
	}
	return out
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
