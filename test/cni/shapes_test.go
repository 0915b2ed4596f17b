// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"flag"
	"testing"
)

// which is another in the guests of test/vm, whose kernels have every kind of
// device. Each shape is of one list; nothing is skipped.
var which = flag.String("shapes", "host", "host: those that need no modules; even, odd: a half each of those that do; all")

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
	{"vlan on bond", uplinkBondVLAN},
	{"vlan", uplinkVLAN},
	{"gre", gre},
	{"ipip", ipip},
	{"bond", uplinkBond},
	{"wireguard", wireguard},
}

func TestShapes(t *testing.T) {
	var run []shape
	for i, s := range guestShapes {
		if *which == "all" || *which == "even" && i%2 == 0 || *which == "odd" && i%2 == 1 {
			run = append(run, s)
		}
	}
	if *which == "all" || *which == "host" {
		run = append(run, hostShapes...)
	}
	if len(run) == 0 {
		t.Fatalf("-shapes %q: write host, even, odd or all", *which)
	}
	for _, s := range run {
		t.Run(s.name, func(t *testing.T) { s.run(newScene(t)) })
	}
}
