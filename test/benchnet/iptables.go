// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// iptablesFilter is the filter table of kube-proxy's iptables mode where every service
// has endpoints.
const iptablesFilter = `*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`

// iptablesNAT begins its nat table.
const iptablesNAT = `*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
`

// iptablesRest are the rules of the nat table that belong to no service, but for the one
// about node ports, which is the last of KUBE-SERVICES.
const iptablesRest = `-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
`

const iptablesLast = `-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
`

// iptablesRules are the services as kube-proxy's iptables mode writes them, for
// iptables-restore: a rule in KUBE-SERVICES for each port, a chain that picks an
// endpoint by chance, and a chain for each endpoint.
func iptablesRules(all []service) string {
	var chains, rules strings.Builder
	for _, s := range all {
		for _, p := range s.ports {
			iptablesPort(&chains, &rules, s, p)
		}
	}
	return iptablesFilter + iptablesNAT + chains.String() + iptablesRest + rules.String() + iptablesLast
}

func iptablesPort(chains, rules *strings.Builder, s service, p port) {
	name := fmt.Sprintf("%s:%s-%d", s.name, p.protocol, p.number)
	match := fmt.Sprintf(`-m comment --comment "%s cluster IP" -m %[2]s -p %[2]s -d %s --dport %d`, name, p.protocol, s.vip, p.number)
	chain := "KUBE-SVC-" + hash(16, name, p.protocol)
	fmt.Fprintf(chains, ":%s - [0:0]\n", chain)
	fmt.Fprintf(rules, "-A KUBE-SERVICES %s -j %s\n", match, chain)
	fmt.Fprintf(rules, "-A %s %s ! -s %s -j KUBE-MARK-MASQ\n", chain, match, localNetwork)
	for i, e := range p.endpoints {
		endpoint := "KUBE-SEP-" + hash(16, name, p.protocol, e.String())
		fmt.Fprintf(chains, ":%s - [0:0]\n", endpoint)
		chance := ""
		if left := len(p.endpoints) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		fmt.Fprintf(rules, "-A %s -m comment --comment \"%s -> %s\" %s-j %s\n", chain, name, e, chance, endpoint)
		fmt.Fprintf(rules, "-A %s -m comment --comment %s -s %s -j KUBE-MARK-MASQ\n", endpoint, name, e.Addr())
		fmt.Fprintf(rules, "-A %s -m comment --comment %s -m %[3]s -p %[3]s -j DNAT --to-destination %[4]s\n", endpoint, name, p.protocol, e)
	}
}
