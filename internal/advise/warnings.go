// SPDX-License-Identifier: Apache-2.0

// Package advise compares what is to be served with how the machine is set up
// and says what keeps packets from arriving: for services of a file waggle
// assigns no addresses and changes no sysctls, so it warns, with the command that mends it.
package advise

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// Facts are what a snapshot is compared with.
type Facts struct {
	// Own are the addresses of this machine.
	Own map[netip.Addr]bool
	// Routed are the VIPs for which the machine has more than a default route.
	Routed map[netip.Addr]bool
	// Forwards are the families of which the machine forwards packets.
	Forwards map[lb.Family]bool
}

// Warning is one thing to mend.
type Warning struct {
	// Problem is what is wrong.
	Problem string
	// Subject is what it is wrong with: a VIP, or a sysctl.
	Subject string
	// Service is the first one that suffers, and how many others do.
	Service string
	// Remedy is the command that mends it.
	Remedy string
}

// cause tells whether two warnings are about the same thing.
type cause struct{ problem, subject string }

func (w Warning) cause() cause { return cause{w.Problem, w.Subject} }

// The problems.
const (
	unreached = "VIP is neither on this machine nor routed here: assign it, or route it"
	noForward = "forwarding is off: packets to backends on other machines are dropped"
)

// sysctls turn forwarding on.
var sysctls = map[lb.Family]string{
	lb.IPv4: "net.ipv4.ip_forward",
	lb.IPv6: "net.ipv6.conf.all.forwarding",
}

// Warnings returns what is wrong with the machine for the services of a
// snapshot: each cause once, sysctls first, then VIPs in order.
func Warnings(snap *lb.Snapshot, f Facts) []Warning {
	idle := make(map[lb.Family][]lb.ServiceID)
	lost := make(map[netip.Addr][]lb.ServiceID)
	for svc := range snap.All() {
		if !f.Forwards[svc.ID.Family] && slices.ContainsFunc(svc.Backends, func(b lb.Backend) bool { return !f.Own[b.Addr.Addr()] }) {
			idle[svc.ID.Family] = append(idle[svc.ID.Family], svc.ID)
		}
		for vip := range vipsOf(svc) {
			if !f.Own[vip] && !f.Routed[vip] {
				lost[vip] = append(lost[vip], svc.ID)
			}
		}
	}
	var out []Warning
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		if who := idle[family]; who != nil {
			out = append(out, Warning{noForward, sysctls[family], list(who), "sysctl -w " + sysctls[family] + "=1"})
		}
	}
	for _, vip := range sortedKeys(lost) {
		remedy := fmt.Sprintf("ip addr add %s dev lo", netip.PrefixFrom(vip, vip.BitLen()))
		out = append(out, Warning{unreached, vip.String(), list(lost[vip]), remedy})
	}
	return out
}

// vipsOf returns a service's addresses, each once.
func vipsOf(svc *lb.Service) map[netip.Addr]bool {
	vips := make(map[netip.Addr]bool, 1)
	for _, f := range svc.Frontends {
		vips[f.Addr.Addr()] = true
	}
	return vips
}

func sortedKeys(m map[netip.Addr][]lb.ServiceID) []netip.Addr {
	keys := make([]netip.Addr, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, netip.Addr.Compare)
	return keys
}

func list(ids []lb.ServiceID) string {
	if len(ids) == 1 {
		return ids[0].String()
	}
	return fmt.Sprintf("%s and %d more", ids[0], len(ids)-1)
}
