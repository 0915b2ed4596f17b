// SPDX-License-Identifier: Apache-2.0

// Package lb is waggle's model: what should be served, independent of who
// says so (sync) and of who does it (dataplane). All values are immutable
// once they are part of a Snapshot; nothing in this package does I/O.
package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Family is the address family of a Service. A Service never mixes families.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of addr. A v4-mapped IPv6 address is IPv4.
func FamilyOf(addr netip.Addr) Family {
	if addr.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "ipv4" or "ipv6".
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols of frontends.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns "TCP", "UDP", "SCTP" or the number.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("%d", uint8(p))
}

// ParseProtocol reads "TCP", "UDP" or "SCTP" in any case.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToUpper(s) {
	case "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("unknown protocol %q: write TCP, UDP or SCTP", s)
}

// Frontend is one address, port and protocol at which a Service is reached, and
// what is particular to those who come by it.
type Frontend struct {
	// Addr is where packets go to. The unspecified address stands for each address
	// of this machine that Node.NodePorts admits: a node port.
	Addr       netip.AddrPort
	Protocol   Protocol
	Policy     Policy
	Masquerade Masquerade
	// Restricted says that new connections are taken from Service.SourceRanges
	// only; others are dropped.
	Restricted bool
}

// Key returns what tells frontends apart: address, port and protocol.
func (f Frontend) Key() Frontend { return Frontend{Addr: f.Addr, Protocol: f.Protocol} }

// IsNodePort reports whether it is served at addresses of this machine.
func (f Frontend) IsNodePort() bool { return f.Addr.Addr().IsUnspecified() }

// String returns "203.0.113.10:80/TCP", the form that the YAML input uses.
func (f Frontend) String() string { return f.Addr.String() + "/" + f.Protocol.String() }

// Compare orders frontends by protocol, address and port.
func (f Frontend) Compare(g Frontend) int {
	return cmp.Or(cmp.Compare(f.Protocol, g.Protocol), f.Addr.Compare(g.Addr))
}

// Policy says among which backends a frontend's new connections are spread:
// Kubernetes' traffic policies.
type Policy uint8

// The policies.
const (
	// PolicyCluster is for the pool of all machines.
	PolicyCluster Policy = iota
	// PolicyLocal is for the pool of this machine (internalTrafficPolicy: Local).
	PolicyLocal
	// PolicyLocalExternal is for the pool of this machine too, but clients on this
	// machine, its pods and itself, have that of all machines
	// (externalTrafficPolicy: Local).
	PolicyLocalExternal
)

var policyWords = [...]string{"cluster", "local", "local-external"}

// String returns "cluster", "local" or "local-external".
func (p Policy) String() string { return policyWords[p] }

// Pools is a set of a service's two pools.
type Pools uint8

// The pools.
const (
	Cluster Pools = 1 << 0 // of all machines
	Local   Pools = 1 << 1 // of this machine
)

// Backend is one server behind a Service.
type Backend struct {
	// Addr has port 0 if the port is the one that the client asked for: a
	// backend of a service that has frontends for any port.
	Addr netip.AddrPort
	// Weight is 0 to 65535. 0 is quiesced: connections stay, none is added.
	Weight uint16
	// Upper is how many connections it takes, active and inactive ones together,
	// before it is overloaded and gets no new ones; 0: any number. It gets new
	// ones again when it has less than Lower, or if that is 0 than Upper less a
	// quarter (IPVS's u_threshold and l_threshold).
	Upper, Lower uint32
	// Unhealthy says that it does not serve: it gets nothing new, and what
	// happens to its connections is Service.Lost.
	Unhealthy bool
	// Outside are the pools that it is not in: no new connection of theirs goes to
	// it. One that is outside of both keeps what it has.
	Outside Pools
}

// Usable reports whether new connections may go to the backend, as far as it
// does not depend on how many it has.
func (b *Backend) Usable() bool { return b.Weight > 0 && !b.Unhealthy }

// MaxWeight is the largest weight of a Backend. IPVS's netlink takes more,
// but its counters of a cycle do not gain from it.
const MaxWeight = 65535

// ServiceID names a Service: the name its source gave it, and the family.
type ServiceID struct {
	Name   string
	Family Family
}

// String returns "web/ipv4".
func (id ServiceID) String() string { return id.Name + "/" + id.Family.String() }

// Compare orders by name, then family.
func (id ServiceID) Compare(other ServiceID) int {
	return cmp.Or(strings.Compare(id.Name, other.Name), cmp.Compare(id.Family, other.Family))
}

// Service is a set of frontends and the backends that they share. Two services
// with equal content but different pointers count as a change (see Diff).
type Service struct {
	ID ServiceID
	// Scheduler is a name of package sched's registry.
	Scheduler string
	// SchedulerFlags are of the scheduler: sched.FlagNames has their words.
	SchedulerFlags SchedulerFlags
	Frontends      []Frontend
	// Backends stand in the order of the kernel's IPVS list: the newest first.
	Backends []Backend
	// SourceRanges are from where Restricted frontends take connections, sorted by
	// netip.Prefix.Compare.
	SourceRanges []netip.Prefix
	Affinity     Affinity
	// OnePacket says that each datagram of UDP is scheduled by itself, and
	// nothing is kept of it: IPVS's one-packet scheduling. Answers keep the
	// backend's address.
	OnePacket bool
	// HostSockets says that of sockets only this machine's own are led to backends
	// when they connect: packets of other network namespaces go to the frontend.
	HostSockets bool
	Lost        Lost
	Reuse       Reuse
}

// SocketWords say whose sockets are led: HostSockets is the second.
var SocketWords = []string{"all", "host"}

// Sockets returns the word of SocketWords.
func (s *Service) Sockets() string {
	if s.HostSockets {
		return SocketWords[1]
	}
	return SocketWords[0]
}

// Pool returns the backends of one pool, in their order.
func (s *Service) Pool(p Pools) []Backend {
	for i := range s.Backends {
		if s.Backends[i].Outside&p != 0 {
			return slices.DeleteFunc(slices.Clone(s.Backends), func(b Backend) bool { return b.Outside&p != 0 })
		}
	}
	return s.Backends
}

// UsesLocal reports whether a frontend picks from the pool of this machine.
func (s *Service) UsesLocal() bool {
	return slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Policy != PolicyCluster })
}

// Masquerade returns the first of its frontends' that is not MasqueradeNever.
func (s *Service) Masquerade() Masquerade {
	for _, f := range s.Frontends {
		if f.Masquerade != MasqueradeNever {
			return f.Masquerade
		}
	}
	return MasqueradeNever
}

// SetMasquerade masquerades at all of its frontends in one way, in a list of its
// own.
func (s *Service) SetMasquerade(m Masquerade) {
	s.Frontends = slices.Clone(s.Frontends)
	for i := range s.Frontends {
		s.Frontends[i].Masquerade = m
	}
}

// SchedulerFlags are the flags of sh and mh (ipvsadm -b).
type SchedulerFlags uint8

// The flags; the numbers are those of IPVS (IP_VS_SVC_F_SCHED1 and 2), less
// their place in its word.
const (
	// SchedulerFallback tries others when the backend that was hashed to
	// cannot serve.
	SchedulerFallback SchedulerFlags = 1 << 0
	// SchedulerPort hashes the client's port too.
	SchedulerPort SchedulerFlags = 1 << 1
)

// Affinity keeps a client, or a network of clients, at one backend: IPVS's
// persistence. The zero value is none.
type Affinity struct {
	// Timeout is how long after the last new connection, in whole seconds; 0:
	// no affinity. It lasts as long as such a connection does, but if it Lapses.
	Timeout time.Duration
	// Prefix is how many bits of the client's address count: up to 32, or 128
	// for IPv6.
	Prefix uint8
	// Quiesced says that a backend of weight 0 gets new connections of its
	// clients, as in IPVS without expire_quiescent_template.
	Quiesced bool
	// Lapses says that it ends with the timeout even if a connection lives, as in
	// Kubernetes.
	Lapses bool
}

// Enabled reports whether there is affinity.
func (a Affinity) Enabled() bool { return a.Timeout > 0 }

// Bits returns how many bits an address of the family has.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// Lost says what becomes of flows whose backend was removed, or is unhealthy.
type Lost uint8

// What becomes of them.
const (
	// LostKeep forwards TCP until it closes; UDP gets another backend at once.
	LostKeep Lost = iota
	// LostReset answers TCP with a reset; UDP gets another backend at once. As
	// IPVS does with expire_nodest_conn.
	LostReset
	// LostDrop drops what comes, and lets the flow time out: so it goes on if
	// the backend is back before that. As IPVS does by default.
	LostDrop
)

var lostWords = [...]string{"keep", "reset", "drop"}

// String returns the word of the YAML input: "keep", "reset" or "drop".
func (l Lost) String() string { return lostWords[l] }

// Reuse says when the SYN of a client port that has a flow gets a backend of
// its own. A SYN of a live flow whose backend serves is a repetition, always.
type Reuse uint8

// When it does.
const (
	// ReuseAny picks afresh if the flow is finished (TIME_WAIT, CLOSE), and if
	// its backend was removed or takes nothing new.
	ReuseAny Reuse = iota
	// ReuseFinished does for finished flows without affinity, and, with
	// LostReset, those of a backend of weight 0: IPVS's conn_reuse_mode 1.
	ReuseFinished
	// ReuseNever goes on with the flow's backend, but, with LostReset, not one
	// of weight 0: IPVS's conn_reuse_mode 0.
	ReuseNever
)

var reuseWords = [...]string{"any", "finished", "never"}

// String returns the word of the YAML input: "any", "finished" or "never".
func (r Reuse) String() string { return reuseWords[r] }

// Masquerade says whose address the backends see as the client's. Whatever a
// frontend says, a client that is the backend itself is masqueraded: it would not
// take a packet from its own address.
type Masquerade uint8

// The ways to masquerade.
const (
	// MasqueradeNever shows the real client. Its replies must come back
	// through this machine, or the client would not know them.
	MasqueradeNever Masquerade = iota
	// MasqueradeAlways shows an address of this machine.
	MasqueradeAlways
	// MasqueradeOutsiders does so to all clients but this machine's pods.
	MasqueradeOutsiders
	// MasqueradeNode does so to this machine's own connections.
	MasqueradeNode
)

var masqueradeWords = [...]string{"never", "always", "outsiders", "node"}

// String returns "never", "always", "outsiders" or "node"; the YAML input has the
// first two.
func (m Masquerade) String() string { return masqueradeWords[m] }

// BackendID names one backend of one service.
type BackendID struct {
	Service ServiceID
	Addr    netip.AddrPort
}

// Verdict is what a dataplane does with a packet.
type Verdict uint8

// The verdicts. Pass is for packets that are none of waggle's.
const (
	Pass Verdict = iota
	Forward
	Refuse // answer with ICMP port unreachable or RST
	Drop
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	return [...]string{"pass", "forward", "refuse", "drop"}[v&3]
}
