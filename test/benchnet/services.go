// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
)

// port is one port of a service, with where it leads.
type port struct {
	protocol  string // tcp or udp
	number    uint16
	endpoints []netip.AddrPort
}

// service is a Service with a cluster IP.
type service struct {
	name  string // namespace/name
	vip   netip.Addr
	ports []port
}

// Ports of the service under test, and where its endpoints listen.
const (
	webPort     = 80
	webEndpoint = 8080
	bulkPort    = 5201 // iperf3's own
	sinkPort    = 9    // datagrams that nobody answers
)

// localNetwork is where the clients' and servers' addresses are (package netlab): what
// comes from there is not masqueraded, as with kube-proxy's --cluster-cidr.
const localNetwork = "198.18.0.0/15"

// others are the endpoints of services that get no traffic: 10.128.0.0/9 is nowhere.
var (
	firstVIP      = netip.AddrFrom4([4]byte{10, 96, 0, 1})
	firstEndpoint = netip.AddrFrom4([4]byte{10, 128, 0, 1})
)

// plus returns the address n after a.
func plus(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// services returns n of them, with the one under test in the middle, where a search in
// order finds it after half of the others. Each other one has a port with two endpoints.
func services(n int, servers []netip.Addr) (all []service, tested service) {
	for i := range n {
		s := service{name: fmt.Sprintf("bench/other-%d", i), vip: plus(firstVIP, i)}
		if i == n/2 {
			s.name, s.ports = "bench/tested", testedPorts(servers)
			tested = s
		} else {
			s.ports = []port{{"tcp", webPort, []netip.AddrPort{
				netip.AddrPortFrom(plus(firstEndpoint, 2*i), webEndpoint),
				netip.AddrPortFrom(plus(firstEndpoint, 2*i+1), webEndpoint),
			}}}
		}
		all = append(all, s)
	}
	return all, tested
}

// testedPorts are those that are measured. iperf3 wants its control connection and its
// data at the same server, so that has only one.
func testedPorts(servers []netip.Addr) []port {
	var web []netip.AddrPort
	for _, a := range servers {
		web = append(web, netip.AddrPortFrom(a, webEndpoint))
	}
	return []port{
		{"tcp", webPort, web},
		{"tcp", bulkPort, []netip.AddrPort{netip.AddrPortFrom(servers[0], bulkPort)}},
		{"udp", bulkPort, []netip.AddrPort{netip.AddrPortFrom(servers[0], bulkPort)}},
		{"udp", sinkPort, []netip.AddrPort{netip.AddrPortFrom(servers[0], sinkPort)}},
	}
}

// hash is a short name for what the words say.
func hash(length int, words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "/")))
	return base32.StdEncoding.EncodeToString(sum[:])[:length]
}

// ipvsadmRules are the services in the form of `ipvsadm --save -n`, for `waggle run`.
func ipvsadmRules(all []service) string {
	var b strings.Builder
	for _, s := range all {
		for _, p := range s.ports {
			at := fmt.Sprintf("-%c %s", p.protocol[0], netip.AddrPortFrom(s.vip, p.number))
			fmt.Fprintf(&b, "-A %s -s rr\n", at)
			for _, e := range p.endpoints {
				fmt.Fprintf(&b, "-a %s -r %s -m -w 1\n", at, e)
			}
		}
	}
	return b.String()
}
