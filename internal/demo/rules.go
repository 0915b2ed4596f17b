// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// Ports. The first scheduler's services are at firstVIPPort, the next one's at
// the port after. Source ports of counted flows and of probes are never used
// twice, so each of them is a flow of its own and two VIPs never see one source
// port.
const (
	firstVIPPort  = 8001
	serverPort    = 8080
	firstProbe    = 9000 // of what is not counted
	firstFlowPort = 10000
	lastFlowPort  = 29999
)

var (
	protocols = []lb.Protocol{lb.TCP, lb.UDP}
	families  = []lb.Family{lb.IPv4, lb.IPv6}
)

// service is one virtual service of the demo.
type service struct {
	scheduler string
	protocol  lb.Protocol
	family    lb.Family
	vip       netip.AddrPort
}

// backend is one real server of the demo.
type backend struct {
	name   string
	weight uint16
	v4, v6 netip.AddrPort
}

func (b backend) addr(f lb.Family) netip.AddrPort {
	if f == lb.IPv6 {
		return b.v6
	}
	return b.v4
}

// maxFlows is how many flows per service the range of source ports allows.
func maxFlows(schedulers int) int {
	services := max(1, schedulers*len(protocols)*len(families))
	return (lastFlowPort - firstFlowPort + 1) / services * clients
}

// services returns a service for each scheduler, protocol and family.
func services(schedulers []string) []service {
	var out []service
	for i, s := range schedulers {
		for _, p := range protocols {
			for _, f := range families {
				addr := netlab.VIP4
				if f == lb.IPv6 {
					addr = netlab.VIP6
				}
				out = append(out, service{s, p, f, netip.AddrPortFrom(addr, uint16(firstVIPPort+i))})
			}
		}
	}
	return out
}

// rules writes the services as `ipvsadm --save -n` does.
func rules(services []service, backends []backend) string {
	var b strings.Builder
	for _, s := range services {
		flag := "-t"
		if s.protocol == lb.UDP {
			flag = "-u"
		}
		fmt.Fprintf(&b, "-A %s %s -s %s\n", flag, s.vip, s.scheduler)
		for _, r := range backends {
			fmt.Fprintf(&b, "-a %s %s -r %s -m -w %d\n", flag, s.vip, r.addr(s.family), r.weight)
		}
	}
	return b.String()
}
