// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// policy makes a node forward only connections to the pods themselves, as a
// network policy does, that knows nothing of VIPs. Packets that conntrack
// cannot place are counted wherever they show.
func (s *scene) policy(n *node, pods ...*host) {
	s.Helper()
	var v4, v6 []string
	for _, p := range pods {
		v4, v6 = append(v4, p.v4.String()), append(v6, p.v6.String())
	}
	s.nft(n.Namespace, fmt.Sprintf(`
		table inet lab {
			counter invalid { }
			counter refused { }
			counter admitted { }
			chain prerouting {
				type filter hook prerouting priority -100
				ct state invalid counter name invalid drop
			}
			chain forward {
				type filter hook forward priority 0; policy drop
				ct state invalid counter name invalid drop
				ct state established accept
				meta l4proto ipv6-icmp accept
				ip daddr { %[1]s } tcp dport %[3]d counter name admitted accept
				ip daddr { %[1]s } udp dport %[3]d counter name admitted accept
				ip6 daddr { %[2]s } tcp dport %[3]d counter name admitted accept
				ip6 daddr { %[2]s } udp dport %[3]d counter name admitted accept
				counter name refused
			}
			chain postrouting {
				type filter hook postrouting priority 300
				icmpv6 type nd-redirect accept comment "always invalid to conntrack"
				ct state invalid counter name invalid
			}
		}`, strings.Join(v4, ", "), strings.Join(v6, ", "), podPort))
}

// policyHeld checks that the policy decided, and had nothing to refuse.
func (s *scene) policyHeld(n *node) {
	s.Helper()
	for _, name := range []string{"invalid", "refused"} {
		if got := s.counter(n.Namespace, name); got != 0 {
			s.Errorf("%s: %d packets were %s", n.Name, got, name)
		}
	}
	if s.counter(n.Namespace, "admitted") == 0 {
		s.Errorf("%s: the policy saw no connection", n.Name)
	}
}

// refuses checks that the policy refuses what is no pod's service: only then a lab
// that is not refused says something.
func (s *scene) refuses(n *node, from, to *host) {
	s.Helper()
	other := netip.AddrPortFrom(to.v4, podPort+1)
	if _, err := visit(from, "udp", other, 0); err == nil {
		s.Errorf("%v answered", other)
	}
	if s.counter(n.Namespace, "refused") == 0 {
		s.Errorf("%s: the policy let a packet to %v pass", n.Name, other)
	}
}

// Strict reverse paths and a policy that drops, before routed pods.
func routedPolicy(s *scene) {
	client := s.uplink()
	a := s.routedPod(s.node, "pod1", "10.244.1.2", "fd00:244:1::2")
	b := s.routedPod(s.node, "pod2", "10.244.1.3", "fd00:244:1::3")
	s.strictOn(s.node, "eth0", "pod1", "pod2")
	s.policy(s.node, a, b)
	s.settle([]*host{client, a, b}, a, b)
	s.everyWay(client, a, b)
	s.policyHeld(s.node)
	s.refuses(s.node, client, a)
	s.droppedOnly("redirect")
}

// strictOn checks that devices check reverse paths: of IPv4 by sysctl, of IPv6
// by a rule as iptables' rpfilter is.
func (s *scene) strictOn(n *node, devices ...string) {
	s.Helper()
	for _, d := range devices {
		if got, err := n.Sysctl("net/ipv4/conf/" + d + "/rp_filter"); err != nil || got != "1" {
			s.Errorf("rp_filter of %s is %q, error %v", d, got, err)
		}
	}
	s.nft(n.Namespace, `
		table ip6 strict {
			chain prerouting {
				type filter hook prerouting priority -300; policy accept
				fib saddr . iif oif missing ip6 saddr != fe80::/10 ip6 saddr != :: drop
			}
		}`)
}

// The CNI masquerades what leaves the cluster, in the same places of the
// stack, and another NAT of its own leads a port of the node to a pod.
func masqueradeByNft(s *scene) {
	s.masqueradedByCNI(func() {
		s.nft(s.node.Namespace, `
			table inet cni {
				chain postrouting {
					type nat hook postrouting priority srcnat
					ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade fully-random
					ip6 saddr fd00:244::/32 ip6 daddr != fd00:244::/32 masquerade fully-random
				}
			}`)
	})
}

func masqueradeByIptables(s *scene) {
	s.masqueradedByCNI(func() {
		s.output(s.node.Namespace, "", "iptables-nft", "-t", "nat", "-A", "POSTROUTING",
			"-s", "10.244.0.0/16", "!", "-d", "10.244.0.0/16", "-j", "MASQUERADE", "--random-fully")
		s.output(s.node.Namespace, "", "ip6tables-nft", "-t", "nat", "-A", "POSTROUTING",
			"-s", "fd00:244::/32", "!", "-d", "fd00:244::/32", "-j", "MASQUERADE", "--random-fully")
	})
}

// masqueradedByCNI: what a pod sends to the outside has the node's source;
// what goes through the VIP, in whichever direction, is left alone.
func (s *scene) masqueradedByCNI(masquerade func()) {
	client := s.uplink()
	s.serve(client)
	s.bridgeOf(s.node, "10.244.1", "fd00:244:1")
	a := s.bridgedPod(s.node, "pod1", "10.244.1", "fd00:244:1", "2")
	b := s.bridgedPod(s.node, "pod2", "10.244.1", "fd00:244:1", "3")
	masquerade()
	s.settle([]*host{client, a, b}, a, b)
	outside := service{83, []*host{client}, false}
	s.everyWay(client, a, b, outside)
	for _, v6 := range []bool{false, true} {
		to, node := netip.AddrPortFrom(client.addr(v6), podPort), []string{"203.0.113.1", "fd00:113::1"}[btoi(v6)]
		for _, network := range []string{"tcp", "udp"} {
			who, err := visit(a, network, to, 1<<20)
			if err != nil || who.saw.String() != node {
				s.Errorf("a pod to %s %v: %v, error %v; want to be seen as %s", network, to, who, err, node)
			}
		}
	}
	// the backend is outside: by waggle's NAT to there, by the CNI's as the node
	s.reaches(a, outside, true)
	s.droppedOnly("redirect")
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// assignVIPs puts the VIPs on the node's loopback device.
func (s *scene) assignVIPs(n *node) {
	s.Helper()
	for _, vip := range []netip.Addr{netlab.VIP4, netlab.VIP6} {
		if err := n.AddAddr("lo", netip.PrefixFrom(vip, vip.BitLen())); err != nil {
			s.Fatal(err)
		}
	}
}
