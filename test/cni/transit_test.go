// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"net/netip"
	"os/exec"
	"strings"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// The node bridges machines that have nothing to do with it, one of which has
// an address that is a VIP on the node: on the segment the Ethernet address
// says who is meant.
func transit(s *scene) {
	s.transit(false)
	// of a connection that is routed here and bridged there, conntrack sees half
	if got := s.counter(s.node.Namespace, "bridged"); got != 0 {
		s.Errorf("netfilter saw %d packets to the VIPs", got)
	}
}

func transitNetfilter(s *scene) {
	s.transit(true)
	if s.counter(s.node.Namespace, "bridged") == 0 {
		s.Error("netfilter saw nothing of what crosses the bridge")
	}
	if got := s.counter(s.node.Namespace, "invalid"); got != 0 {
		s.Errorf("%d packets were invalid", got)
	}
}

func (s *scene) transit(netfilter bool) {
	s.Helper()
	s.bridgeOf(s.node, "10.244.1", "fd00:244:1")
	s.filterBridged(s.node, netfilter)
	asker := s.bridgedPod(s.node, "asker", "10.244.1", "fd00:244:1", "2")
	pod := s.bridgedPod(s.node, "pod1", "10.244.1", "fd00:244:1", "3")
	owner := s.bridgedPod(s.node, "owner", "10.244.1", "fd00:244:1", "4")
	own := s.ownVIPs(owner)
	s.policyOfTransit()
	s.settle([]*host{asker, pod}, pod, owner)
	s.node.start(rules(service{80, []*host{pod}, false}, service{podPort, []*host{pod}, false}))

	// asker knows the owner as the VIPs' machine
	s.ip(asker.Namespace, "route add "+netlab.VIP4.String()+" dev eth0\nroute add "+netlab.VIP6.String()+" dev eth0")
	s.sysctl(owner.Namespace, "net/ipv4/conf/all/arp_ignore=0")
	s.direct(asker, own)
	s.direct(asker, pod)
	s.direct(pod, asker)
	if flows := s.flows(s.node); flows != 0 {
		s.Errorf("%d flows of others' packets", flows)
	}
	s.droppedOnly()

	// the same addresses by way of the node are its VIPs
	s.reaches(pod, service{80, []*host{pod}, false}, true)
	s.ip(asker.Namespace, "route del "+netlab.VIP4.String()+" dev eth0\nroute del "+netlab.VIP6.String()+" dev eth0")
	s.reaches(asker, service{80, []*host{pod}, false}, false)
	s.droppedOnly("redirect")
}

// ownVIPs gives a machine the VIPs as addresses of its own.
func (s *scene) ownVIPs(h *host) *host {
	s.Helper()
	for _, vip := range []netip.Addr{netlab.VIP4, netlab.VIP6} {
		if err := h.AddAddr("eth0", netip.PrefixFrom(vip, vip.BitLen())); err != nil {
			s.Fatal(err)
		}
	}
	own := &host{h.Namespace, h.name, netlab.VIP4, netlab.VIP6}
	s.serve(own)
	return own
}

// policyOfTransit only counts.
func (s *scene) policyOfTransit() {
	s.Helper()
	s.nft(s.node.Namespace, strings.NewReplacer("VIP4", netlab.VIP4.String(), "VIP6", netlab.VIP6.String()).Replace(`
		table inet lab {
			counter invalid { }
			counter bridged { }
			chain forward {
				type filter hook forward priority 0
				ct state invalid counter name invalid
				ip daddr VIP4 counter name bridged
				ip6 daddr VIP6 counter name bridged
			}
		}`))
}

// flows counts the flows of a node.
func (s *scene) flows(n *node) int {
	s.Helper()
	out, err := exec.Command(waggle, "flows", "--pin-path", n.pins).Output()
	if err != nil {
		s.Fatalf("waggle flows: %v", err)
	}
	return max(strings.Count(string(out), "\n")-1, 0)
}
