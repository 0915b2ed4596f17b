// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// nftablesBase is what kube-proxy's nftables mode (of Kubernetes 1.37) has whatever
// services there are: base chains, maps, and the chains between. %s are the network
// that is not masqueraded, the node's address, and all cluster IPs.
const nftablesBase = `table ip kube-proxy {
	comment "rules for kube-proxy"

	set cluster-ips { type ipv4_addr; comment "Active ClusterIPs"; elements = { %[3]s } }
	set nodeport-ips { type ipv4_addr; comment "IPs that accept NodePort traffic"; elements = { %[2]s } }
	set hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service; comment "service hairpin connections"; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }

	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain cluster-ips-check { ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"; }
	chain masquerading {
		mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
		ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
	}
	chain services {
		ip daddr @cluster-ips ip saddr != %[1]s mark set mark or 0x4000 comment "masquerade clusterIP traffic from outside cluster"
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}

	chain filter-prerouting-pre-dnat { type filter hook prerouting priority dstnat - 10; ct state new jump firewall-check; }
	chain filter-output-pre-dnat { type filter hook output priority -110; ct state new jump firewall-check; }
	chain filter-input { type filter hook input priority filter; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }
	chain filter-forward { type filter hook forward priority filter; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
	chain filter-output { type filter hook output priority filter; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
`

// nftablesRules are the services as kube-proxy's nftables mode writes them, for nft -f:
// an element of a verdict map for each port, which leads to a chain that picks an
// endpoint by chance out of a map.
func nftablesRules(all []service, node string) string {
	var vips []string
	for _, s := range all {
		vips = append(vips, s.vip.String())
	}
	var b strings.Builder
	fmt.Fprintf(&b, nftablesBase, localNetwork, node, strings.Join(vips, ", "))
	var elements []string
	b.WriteString("table ip kube-proxy {\n")
	for _, s := range all {
		for _, p := range s.ports {
			chain := fmt.Sprintf("service-%s-%s/%s/%d", hash(8, s.name, p.protocol, fmt.Sprint(p.number)), s.name, p.protocol, p.number)
			fmt.Fprintf(&b, "chain %s { meta l4proto %s dnat %s; }\n", chain, p.protocol, nftablesTarget(p))
			elements = append(elements, fmt.Sprintf("%s . %s . %d : goto %s", s.vip, p.protocol, p.number, chain))
		}
	}
	fmt.Fprintf(&b, "}\nadd element ip kube-proxy service-ips { %s }\n", strings.Join(elements, ", "))
	return b.String()
}

// nftablesTarget is the end of a rule that picks an endpoint; a single one needs no map.
func nftablesTarget(p port) string {
	if len(p.endpoints) == 1 {
		return "to " + p.endpoints[0].String()
	}
	var choices []string
	for i, e := range p.endpoints {
		choices = append(choices, fmt.Sprintf("%d : %s . %d", i, e.Addr(), e.Port()))
	}
	return fmt.Sprintf("ip addr . port to numgen random mod %d map { %s }", len(choices), strings.Join(choices, ", "))
}
