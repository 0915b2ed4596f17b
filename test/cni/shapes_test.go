// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"flag"
	"testing"
)

// which is "all" or "guest" in the guests of test/vm, whose kernels have every
// kind of device. Each shape is of one list; nothing is skipped.
var which = flag.String("shapes", "host", "host: those that need no modules; guest: those that do; all")

// shape is a network that some CNI, or its administrator, makes.
type shape struct {
	name string
	run  func(*scene)
}

// hostShapes need veth, tun, vxlan, bridge with br_netfilter, and nftables.
var hostShapes = []shape{
	{"routed", routed},
	{"routed, VIPs assigned", routedAssigned},
	{"routed, policy", routedPolicy},
	{"bridge", bridge},
	{"bridge, policy", bridgePolicy},
	{"bridge, policy on bridged packets", bridgeNetfilter},
	{"bridge, masquerade by nft", masqueradeByNft},
	{"bridge, masquerade by iptables", masqueradeByIptables},
	{"transit bridge", transit},
	{"transit bridge, netfilter on bridged packets", transitNetfilter},
	{"nodes of one network", hostGateway},
	{"vxlan", vxlan},
	{"tun", tun},
}

// guestShapes need devices that a kernel may lack.
var guestShapes = []shape{
	{"vlan", uplinkVLAN},
	{"bond", uplinkBond},
	{"vlan on bond", uplinkBondVLAN},
	{"ipip", ipip},
	{"gre", gre},
	{"wireguard", wireguard},
}

func TestShapes(t *testing.T) {
	var run []shape
	switch *which {
	case "host":
		run = hostShapes
	case "guest":
		run = guestShapes
	case "all":
		run = append(append(run, hostShapes...), guestShapes...)
	default:
		t.Fatalf("-shapes %q: write host, guest or all", *which)
	}
	for _, s := range run {
		t.Run(s.name, func(t *testing.T) { s.run(newScene(t)) })
	}
}
