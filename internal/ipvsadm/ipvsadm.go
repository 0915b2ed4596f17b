// SPDX-License-Identifier: Apache-2.0

// Package ipvsadm prints services, counters and connections in the forms of
// ipvsadm 1.31, byte for byte as recorded in testdata: for scripts that read
// them, and for people who do. It never needs the tool itself.
package ipvsadm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// Service is a service as IPVS has them: with one frontend. A service of waggle
// is as many of them as it has frontends.
type Service struct {
	// ID is of waggle's service. It is not printed.
	ID        lb.ServiceID
	Frontend  lb.Frontend
	Scheduler string
	Flags     lb.SchedulerFlags
	Affinity  lb.Affinity
	OnePacket bool
	// Shared says that the numbers of the service, which waggle counts over all
	// its frontends, stand with another one: here "-" is printed for them.
	Shared bool
	// Total is since the beginning, Rate what a second had of late. They are not
	// always the sums of those of the servers.
	Total, Rate Traffic
	// Servers stand in the order of the kernel's list: the newest first.
	Servers []Server
}

// Server is a backend as IPVS has them.
type Server struct {
	Addr         netip.AddrPort
	Weight       uint16
	Upper, Lower uint32
	// Active and Inactive count connections, Persistent clients that are kept.
	Active, Inactive, Persistent uint64
	Total, Rate                  Traffic
}

// Traffic counts what a service or a server had.
type Traffic struct {
	Connections, InPackets, OutPackets, InBytes, OutBytes uint64
}

// Services returns the services of a snapshot, one for each frontend, in the
// order of ipvsadm, without counters, which stand with the first frontend of
// each. Unhealthy backends have weight 0.
func Services(s *lb.Snapshot) []Service {
	var out []Service
	for svc := range s.All() {
		servers := make([]Server, 0, len(svc.Backends))
		for _, b := range svc.Backends {
			if b.Unhealthy {
				b.Weight = 0
			}
			servers = append(servers, Server{Addr: b.Addr, Weight: b.Weight, Upper: b.Upper, Lower: b.Lower})
		}
		for _, f := range svc.Frontends {
			out = append(out, Service{
				ID: svc.ID, Frontend: f, Scheduler: svc.Scheduler, Flags: svc.SchedulerFlags,
				Affinity: svc.Affinity, OnePacket: svc.OnePacket, Servers: slices.Clone(servers),
			})
		}
	}
	sortServices(out)
	seen := make(map[lb.ServiceID]bool, s.Len())
	for i := range out {
		out[i].Shared = seen[out[i].ID]
		seen[out[i].ID] = true
	}
	return out
}

// sortServices sorts by family, protocol, address and port.
func sortServices(s []Service) {
	slices.SortFunc(s, func(a, b Service) int { return a.Frontend.Compare(b.Frontend) })
	slices.SortStableFunc(s, func(a, b Service) int {
		f, g := a.Frontend, b.Frontend
		return cmp.Or(
			cmp.Compare(lb.FamilyOf(f.Addr.Addr()), lb.FamilyOf(g.Addr.Addr())),
			cmp.Compare(f.Protocol, g.Protocol),
			compareAddr(f.Addr.Addr(), g.Addr.Addr()),
			cmp.Compare(f.Addr.Port(), g.Addr.Port()),
		)
	})
}

// sorted returns the servers by address and port.
func sorted(servers []Server) []Server {
	out := slices.Clone(servers)
	slices.SortFunc(out, func(a, b Server) int { return a.Addr.Compare(b.Addr) })
	slices.SortStableFunc(out, func(a, b Server) int {
		return cmp.Or(compareAddr(a.Addr.Addr(), b.Addr.Addr()), cmp.Compare(a.Addr.Port(), b.Addr.Port()))
	})
	return out
}

// compareAddr compares addresses of one family as ipvsadm does: by the sign of
// the difference of their first unequal 32-bit words, which overflows. So
// 192.168.0.1 comes before 10.0.0.1, and addresses can lie in a circle; what
// comes first of these depends on the kernel's tables there, and here on the
// true order.
func compareAddr(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := 0; i+4 <= min(len(x), len(y)); i += 4 {
		if d := int32(binary.BigEndian.Uint32(x[i:]) - binary.BigEndian.Uint32(y[i:])); d != 0 {
			return int(d)
		}
	}
	return 0
}

// option is how a rule names the service.
func option(f lb.Frontend) string {
	switch f.Protocol {
	case lb.TCP:
		return "-t " + f.Addr.String()
	case lb.UDP:
		return "-u " + f.Addr.String()
	}
	return "--sctp-service " + f.Addr.String()
}

// persistence says how long a client is kept and, unless it is every address by
// itself, what the mask is; the words before them are those of the form.
func (s *Service) persistence(before, beforeMask string) string {
	a := s.Affinity
	if !a.Enabled() {
		return ""
	}
	out := fmt.Sprintf("%s %d", before, a.Timeout/time.Second)
	family := lb.FamilyOf(s.Frontend.Addr.Addr())
	switch {
	case int(a.Prefix) == family.Bits():
	case family == lb.IPv4:
		out += fmt.Sprintf("%s %s", beforeMask, net.IP(net.CIDRMask(int(a.Prefix), 32)))
	default:
		out += fmt.Sprintf("%s %d", beforeMask, a.Prefix)
	}
	return out
}

func (s *Service) flags() string {
	return strings.Join(sched.FlagNames(s.Scheduler, s.Flags), ",")
}
