// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// mode is what the sysctls of a network namespace say, and a service's options in
// waggle.
type mode struct {
	reuse     bool // conn_reuse_mode
	expire    bool // expire_nodest_conn
	quiescent bool // expire_quiescent_template
}

func (m mode) String() string {
	return fmt.Sprintf("conn_reuse_mode %t, expire_nodest_conn %t, expire_quiescent_template %t", m.reuse, m.expire, m.quiescent)
}

// options are what docs/ipvs-compatibility.md has in the column "as the kernel".
func (m mode) options(svc *lb.Service) {
	svc.Reuse, svc.Lost = lb.ReuseNever, lb.LostDrop
	if m.reuse {
		svc.Reuse = lb.ReuseFinished
	}
	if m.expire {
		svc.Lost = lb.LostReset
	}
	svc.Affinity.Quiesced = svc.Affinity.Enabled() && !m.quiescent
}

// kind is what a service is made of, but for its servers and where it is.
type kind struct {
	scheduler string
	args      string // behind -s
	udp       bool
}

// kinds are all of them. Connections to be made of a scheduler are spread over its
// kinds evenly. dh looks at the VIP: so it has several services.
var kinds = []kind{
	{"rr", "", false}, {"rr", "", true}, {"rr", "-o", true}, {"rr", "-p 600", false},
	{"wrr", "", false}, {"wrr", "", true},
	{"lc", "", false}, {"lc", "", true},
	{"wlc", "", false}, {"wlc", "", true}, {"wlc", "-p 600 MASK", false},
	{"sed", "", false}, {"sed", "", true},
	{"nq", "", false}, {"nq", "", true},
	{"sh", "", false}, {"sh", "-b sh-fallback", false}, {"sh", "-b sh-port", false}, {"sh", "-b sh-fallback,sh-port", false},
	{"dh", "", false}, {"dh", "", false}, {"dh", "", true},
	{"mh", "", false}, {"mh", "-b mh-fallback", false}, {"mh", "-b mh-port", false}, {"mh", "-b mh-fallback,mh-port", true},
}

// service is one, with the state of the script that is played on it.
type service struct {
	kind
	frontend lb.Frontend
	backends []lb.Backend // in no order
	conns    []*conn
	returned map[netip.AddrPort]bool // servers that were away
	left     int                     // connections to make
	log      []string                // what was done
	failed   bool
}

func (s *service) id() lb.ServiceID {
	return lb.ServiceID{Name: s.frontend.String(), Family: lb.FamilyOf(s.frontend.Addr.Addr())}
}

func (s *service) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s, -s %s %s", s.frontend, s.scheduler, s.args))
}

// rules writes services as ipvsadm -S does: of each the last server is the newest.
func rules(services []*service) string {
	var text strings.Builder
	for _, s := range services {
		option := "-t"
		if s.udp {
			option = "-u"
		}
		mask := "-M 255.255.255.0"
		if s.frontend.Addr.Addr().Is6() {
			mask = "-M 64"
		}
		fmt.Fprintf(&text, "-A %s %s -s %s %s\n", option, s.frontend.Addr, s.scheduler, strings.ReplaceAll(s.args, "MASK", mask))
		for _, b := range s.backends {
			fmt.Fprintf(&text, "-a %s %s -r %s -m -w %d", option, s.frontend.Addr, b.Addr, b.Weight)
			if b.Upper > 0 {
				fmt.Fprintf(&text, " -x %d -y %d", b.Upper, b.Lower)
			}
			fmt.Fprintln(&text)
		}
	}
	return text.String()
}

// vip is where the n-th kind of service is.
func vip(f lb.Family, n int) netip.Addr {
	if f == lb.IPv4 {
		return netip.AddrFrom4([4]byte{198, 18, 255, byte(10 + n)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0f, 13: byte(37 * n), 14: byte(n), 15: byte(10 + n)})
}

// serverAt is the n-th server.
func serverAt(f lb.Family, n int) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{198, 19, 0, byte(1 + n)})
	if f == lb.IPv6 {
		a = netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0e, 15: byte(1 + n)})
	}
	return netip.AddrPortFrom(a, 8080+uint16(n%3))
}

// maxServers is how many there are, of which a service has a part at any time.
const maxServers = 8
