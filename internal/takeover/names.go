// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// device holds the VIPs of kube-proxy's IPVS mode.
const device = nlx.KubeIPVSDevice

// tableName is that of the nftables tables of its nftables mode.
const tableName = "kube-proxy"

// proxyChains and proxyPrefixes name the chains of iptables that kube-proxy owns, in
// its iptables and IPVS modes, and what older releases had. Not KUBE-FIREWALL,
// KUBE-MARK-DROP, KUBE-IPTABLES-HINT and KUBE-KUBELET-CANARY: those are kubelet's.
// Not all of KUBE-: kube-router's chains begin like that, too.
var (
	proxyChains = []string{
		"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-FORWARD",
		"KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL",
		"KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
	}
	proxyPrefixes = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"}
)

// markChain marks what is to be masqueraded, and masqueradeChain does it. Others may
// be told to use them: portmap's externalSetMarkChain.
const (
	markChain       = "KUBE-MARK-MASQ"
	masqueradeChain = "KUBE-POSTROUTING"
)

func isProxyChain(name string) bool {
	return slices.Contains(proxyChains, name) ||
		slices.ContainsFunc(proxyPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// proxySets are the ipsets of its IPVS mode, without the family's prefix: KUBE- or
// KUBE-6-. nodePortSets are those of them that hold node ports.
var (
	nodePortSets = []string{
		"NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP", "NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH",
	}
	proxySets = append([]string{
		"LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-FW", "LOAD-BALANCER-LOCAL",
		"LOAD-BALANCER-SOURCE-IP", "LOAD-BALANCER-SOURCE-CIDR", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS",
	}, nodePortSets...)
)

// longestSet is how much of a set's name the kernel keeps (IPSET_MAXNAMELEN less its
// end), so much kube-proxy writes.
const longestSet = 31

// isOneOf reports whether an ipset is one of those, of either family.
func isOneOf(sets []string, name string) bool {
	return slices.ContainsFunc(sets, func(set string) bool {
		six := "KUBE-6-" + set
		return name == "KUBE-"+set || name == six[:min(len(six), longestSet)]
	})
}
