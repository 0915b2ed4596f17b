// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// A service has a port for UDP and one for TCP, or half of the services have the one
// and half the other; each has one backend, the same for all. So whatever number a
// dataplane has, one socket of the server sees it all.
const (
	vipPort     = 80
	backendPort = 8080
)

// vipNetworks hold the VIPs.
var vipNetworks = map[bool]netip.Prefix{false: netip.MustParsePrefix("10.96.0.0/16"), true: netip.MustParsePrefix("fd00:f::/112")}

// vips are the addresses of n services, each with a port for UDP and one for TCP.
func vips(n int, ipv6 bool) []netip.AddrPort {
	out := make([]netip.AddrPort, max(1, n/2))
	a := vipNetworks[ipv6].Addr()
	for i := range out {
		a = a.Next()
		out[i] = netip.AddrPortFrom(a, vipPort)
	}
	return out
}

// ipvsRules are what `ipvsadm -S -n` prints of them, which waggle reads too.
func ipvsRules(vips []netip.AddrPort, backend netip.AddrPort) string {
	var b strings.Builder
	for _, vip := range vips {
		for _, option := range []string{"-u", "-t"} {
			fmt.Fprintf(&b, "-A %s %s -s rr\n-a %s %s -r %s -m -w 1\n", option, vip, option, vip, backend)
		}
	}
	return b.String()
}

// nftRules are what kube-proxy's nftables mode adds to its table for them: maps from
// addresses to verdicts, and chains for each service and each endpoint.
func nftRules(vips []netip.AddrPort, backend netip.AddrPort) string {
	ip, host, pods := "ip", backend.Addr().String(), "198.18.0.0/16"
	if backend.Addr().Is6() {
		ip, host, pods = "ip6", "["+host+"]", "fd00:c::/32"
	}
	var b, services, clusterIPs strings.Builder
	fmt.Fprintf(&b, "table %s kube-proxy {\n", ip)
	for i, vip := range vips {
		fmt.Fprintf(&clusterIPs, "%s,\n", vip.Addr())
		for _, proto := range []string{"udp", "tcp"} {
			service := fmt.Sprintf("service-%08X-bench/s%d/%s/p", i, i, proto)
			endpoint := fmt.Sprintf("endpoint-%08X-bench/s%d/%s/p__backend/%d", i, i, proto, backend.Port())
			fmt.Fprintf(&b, "chain %s {\n%s saddr %s jump mark-for-masquerade\nmeta l4proto %s dnat to %s:%d\n}\n", endpoint, ip, backend.Addr(), proto, host, backend.Port())
			fmt.Fprintf(&b, "chain %s {\n%s daddr %s %s dport %d %s saddr != %s jump mark-for-masquerade\nnumgen random mod 1 vmap { 0 : goto %s }\n}\n",
				service, ip, vip.Addr(), proto, vip.Port(), ip, pods, endpoint)
			fmt.Fprintf(&services, "%s . %s . %d comment \"bench/s%d:p\" : goto %s,\n", vip.Addr(), proto, vip.Port(), i, service)
		}
	}
	fmt.Fprintf(&b, "}\nadd element %s kube-proxy cluster-ips {\n%s}\nadd element %s kube-proxy service-ips {\n%s}\n", ip, clusterIPs.String(), ip, services.String())
	return b.String()
}
