// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"cmp"
	"fmt"

	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// key is where packets go to: what the kernel knows a virtual service by. Of a
// node port there is one for each address that serves it.
type key struct {
	addr  netip.AddrPort
	proto lb.Protocol
}

func (k key) String() string { return k.addr.String() + "/" + k.proto.String() }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.proto, o.proto), k.addr.Compare(o.addr))
}

// terms are what the rules look at: the value of an element of the table's maps
// frontends4 and frontends6, a bit each.
type terms uint32

// The bits. docs/ipvs-dataplane.md has them for readers of `nft list map`.
const (
	masqueradeAlways    terms = 1 << 0
	masqueradeOutsiders terms = 1 << 1
	masqueradeNode      terms = 1 << 2
	restricted          terms = 1 << 3 // new connections come from its ranges only
	dropAll             terms = 1 << 4 // nobody is local, others are: nobody gets in
	dropOutsiders       terms = 1 << 5 // the same, but pods and the machine itself do
	leaving             terms = 1 << 6 // the frontend is gone, connections are left
	nodePort            terms = 1 << 7
	policyLocal         terms = 1 << 8
	policyLocalExternal terms = 1 << 9
	served              terms = 1 << 10 // always
)

// settings are what a virtual service has beside its servers.
type settings struct {
	scheduler string
	flags     uint32 // IP_VS_SVC_F_*
	timeout   uint32 // of persistence, in seconds
	prefix    uint8  // bits of the client's address that persistence goes by
}

// The flags of virtual services (linux/ip_vs.h).
const (
	flagPersistent = 0x1
	flagHashed     = 0x2 // the kernel's own
	flagOnePacket  = 0x4
	flagFallback   = 0x8 // of sh and mh
	flagPort       = 0x10
)

// dest is a real server as the kernel has it.
type dest struct {
	addr         netip.AddrPort
	weight       uint16
	upper, lower uint32
}

// mark is an upper threshold that no user can mean, and a kernel takes (6.12 refuses
// the largest there are). Thresholds mean nothing to the
// kernel while the weight is 0, so with it they say why that is: lower is mark too
// if the server is leaving, else it is not healthy and lower is its weight.
const mark = 1 << 30

func (d dest) isLeaving() bool { return d.weight == 0 && d.upper == mark && d.lower == mark }

// left is the server once it takes nothing new and goes with its last connection.
func (d dest) left() dest { return dest{addr: d.addr, upper: mark, lower: mark} }

func destOf(b *lb.Backend) dest {
	if b.Unhealthy {
		return dest{addr: b.Addr, upper: mark, lower: uint32(b.Weight)}
	}
	return dest{b.Addr, b.Weight, b.Upper, b.Lower}
}

func (d dest) backend() lb.Backend {
	if d.weight == 0 && d.upper == mark {
		return lb.Backend{Addr: d.addr, Weight: uint16(d.lower), Unhealthy: true}
	}
	return lb.Backend{Addr: d.addr, Weight: d.weight, Upper: d.upper, Lower: d.lower}
}

// virtual is a virtual service and what the table has of it.
type virtual struct {
	key
	terms   terms
	note    string
	sources []netip.Prefix
	settings
	// dests stand in the order of the kernel's list: the newest first.
	dests []dest
	// stays are servers that are not among dests and keep their connections.
	stays map[netip.AddrPort]bool
}

// render makes the virtual services of a service; at are the machine's addresses
// that serve node ports.
func render(svc *lb.Service, at []netip.Addr) (out []*virtual) {
	seen := make(map[key]bool)
	add := func(f lb.Frontend, addr netip.AddrPort, more terms) {
		v := renderAt(svc, f)
		v.addr, v.terms = addr, v.terms|more|served
		if !seen[v.key] { // one's own VIP comes before a node port
			seen[v.key] = true
			out = append(out, v)
		}
	}
	for _, f := range svc.Frontends {
		if !f.IsNodePort() {
			add(f, f.Addr, 0)
		}
	}
	for _, f := range svc.Frontends {
		for _, a := range at {
			if f.IsNodePort() && lb.FamilyOf(a) == svc.ID.Family {
				add(f, netip.AddrPortFrom(a, f.Addr.Port()), nodePort)
			}
		}
	}
	return out
}

func renderAt(svc *lb.Service, f lb.Frontend) *virtual {
	pool, t := choosePool(svc, f.Policy)
	v := &virtual{
		key: key{proto: f.Protocol}, terms: t | masqueradeTerms[f.Masquerade], note: noteOf(svc),
		settings: settingsOf(svc, f), stays: make(map[netip.AddrPort]bool),
	}
	if f.Restricted {
		v.terms |= restricted
		v.sources = svc.SourceRanges
	}
	for i := range pool {
		if b := &pool[i]; !b.Unhealthy || keepsTCP(svc.Lost, f.Protocol) {
			v.dests = append(v.dests, destOf(b))
		}
	}
	for i := range svc.Backends {
		if b := &svc.Backends[i]; b.Outside != 0 && !b.Unhealthy {
			v.stays[b.Addr] = true
		}
	}
	return v
}

var masqueradeTerms = map[lb.Masquerade]terms{
	lb.MasqueradeAlways: masqueradeAlways, lb.MasqueradeOutsiders: masqueradeOutsiders, lb.MasqueradeNode: masqueradeNode,
}

// keepsTCP says whether connections outlive the server's place in the service.
// Datagrams get another server.
func keepsTCP(l lb.Lost, p lb.Protocol) bool { return l == lb.LostKeep && p != lb.UDP }

// choosePool returns a frontend's servers, and whom the rules keep out. A virtual
// service has one list: where outsiders shall have the local pool and this machine
// all, and nobody is local, the list is all and the rules keep outsiders out.
func choosePool(svc *lb.Service, p lb.Policy) ([]lb.Backend, terms) {
	if p == lb.PolicyCluster {
		return svc.Pool(lb.Cluster), 0
	}
	local := svc.Pool(lb.Local)
	all := svc.Pool(lb.Cluster)
	empty := len(local) == 0 && len(all) > 0
	switch {
	case p == lb.PolicyLocal && empty:
		return nil, policyLocal | dropAll
	case p == lb.PolicyLocal:
		return local, policyLocal
	case empty:
		return all, policyLocalExternal | dropOutsiders
	}
	return local, policyLocalExternal
}

func settingsOf(svc *lb.Service, f lb.Frontend) settings {
	s := settings{scheduler: svc.Scheduler, prefix: uint8(svc.ID.Family.Bits())}
	if svc.SchedulerFlags&lb.SchedulerFallback != 0 {
		s.flags |= flagFallback
	}
	if svc.SchedulerFlags&lb.SchedulerPort != 0 {
		s.flags |= flagPort
	}
	if svc.OnePacket && f.Protocol == lb.UDP {
		s.flags |= flagOnePacket
	}
	if svc.Affinity.Enabled() {
		s.flags |= flagPersistent
		s.timeout, s.prefix = uint32(svc.Affinity.Timeout.Seconds()), svc.Affinity.Prefix
	}
	return s
}

// noteOf is the comment of a frontend's element: what neither IPVS nor terms can
// say of the service, and its name. By it the next process knows whose it is.
func noteOf(svc *lb.Service) string {
	bits := 0
	for i, on := range []bool{svc.OnePacket, svc.HostSockets, svc.Affinity.Quiesced, svc.Affinity.Lapses} {
		if on {
			bits |= 1 << i
		}
	}
	return fmt.Sprintf("%s %s %d %d %s", svc.Lost, svc.Reuse, svc.SchedulerFlags, bits, svc.ID.Name)
}

// parseNote is noteOf's inverse, as far as it goes.
func parseNote(note string, family lb.Family) (svc lb.Service, err error) {
	var lost, reuse string
	var bits int
	var name int // where it begins
	if _, err := fmt.Sscanf(note, "%s %s %d %d ", &lost, &reuse, &svc.SchedulerFlags, &bits); err != nil {
		return svc, fmt.Errorf("comment %q: %w", note, err)
	}
	for range 4 {
		name += 1 + slices.Index([]byte(note[name:]), ' ')
	}
	for l := lb.LostKeep; l <= lb.LostDrop; l++ {
		if l.String() == lost {
			svc.Lost = l
		}
	}
	for r := lb.ReuseAny; r <= lb.ReuseNever; r++ {
		if r.String() == reuse {
			svc.Reuse = r
		}
	}
	svc.ID = lb.ServiceID{Name: note[name:], Family: family}
	svc.OnePacket, svc.HostSockets = bits&1 != 0, bits&2 != 0
	svc.Affinity.Quiesced, svc.Affinity.Lapses = bits&4 != 0, bits&8 != 0
	return svc, nil
}
