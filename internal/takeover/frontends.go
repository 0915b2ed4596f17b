// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
)

// The range from which Kubernetes takes node ports unless it is told otherwise.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// frontends tell connections that are kube-proxy's from others that somebody
// translates: a CNI's host ports, an administrator's forwarding.
type frontends struct {
	known  map[lb.Frontend]bool // by Frontend.Key
	ranges []netip.Prefix
	local  map[netip.Addr]bool // this machine's own addresses; not those of devices for IPVS
}

// frontendsOf takes what is known from what is served: nil if nothing is known yet.
func frontendsOf(snap *lb.Snapshot) (*frontends, error) {
	f := &frontends{known: make(map[lb.Frontend]bool), local: make(map[netip.Addr]bool)}
	if snap != nil {
		for svc := range snap.All() {
			for _, fe := range svc.Frontends {
				f.known[fe.Key()] = true
			}
		}
		f.ranges = snap.Node().ServiceRanges
	}
	var foreign []int
	for _, name := range nlx.IPVSDevices {
		if link, err := netlink.LinkByName(name); err == nil {
			foreign = append(foreign, link.Attrs().Index)
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !slices.Contains(foreign, a.LinkIndex) {
			f.local[ip.Unmap()] = true
		}
	}
	return f, nil
}

// knows reports whether a connection is to what is served, or was: to a service's
// address and port, a node port, or a range that VIPs are taken from.
func (f *frontends) knows(e *entry) bool {
	to := e.orig.dst
	any := netip.IPv4Unspecified()
	if to.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	return f.known[lb.Frontend{Addr: to, Protocol: e.protocol}] ||
		f.local[to.Addr()] && f.known[lb.Frontend{Addr: netip.AddrPortFrom(any, to.Port()), Protocol: e.protocol}] ||
		slices.ContainsFunc(f.ranges, func(p netip.Prefix) bool { return p.Contains(to.Addr()) })
}

// mayBe reports whether a translated connection may be kube-proxy's, where that
// serves: of a service that is gone, or not known yet. Those to this machine's own
// addresses are others', such as host ports, unless by a node port.
func (f *frontends) mayBe(e *entry) bool {
	if f.knows(e) || !f.local[e.orig.dst.Addr()] {
		return true
	}
	return e.orig.dst.Port() >= firstNodePort && e.orig.dst.Port() <= lastNodePort
}
