// SPDX-License-Identifier: Apache-2.0

// Package lb is waggle's model: what should be served, independent of who
// says so (sync) and of who does it (dataplane). All values are immutable
// once they are part of a Snapshot; nothing in this package does I/O.
package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
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

// Frontend is one address, port and protocol at which a Service is reached.
type Frontend struct {
	Addr     netip.AddrPort
	Protocol Protocol
}

// String returns "203.0.113.10:80/TCP", the form that the YAML input uses.
func (f Frontend) String() string { return f.Addr.String() + "/" + f.Protocol.String() }

// Compare orders frontends by protocol, address and port.
func (f Frontend) Compare(g Frontend) int {
	return cmp.Or(cmp.Compare(f.Protocol, g.Protocol), f.Addr.Compare(g.Addr))
}

// Backend is one server behind a Service.
type Backend struct {
	Addr netip.AddrPort
	// Weight is 0 to 65535. 0 is quiesced: connections stay, none is added.
	Weight uint16
}

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
	Frontends []Frontend
	// Backends stand in the order of the kernel's IPVS list: the newest first.
	Backends   []Backend
	Masquerade Masquerade
}

// Masquerade says whose address the backends of a service see as the client's.
type Masquerade uint8

// The ways to masquerade. Whatever a service says, a client that is the
// backend itself is masqueraded: it would not take a packet from its own address.
const (
	// MasqueradeNever shows the real client. Its replies must come back
	// through this machine, or the client would not know them.
	MasqueradeNever Masquerade = iota
	// MasqueradeAlways shows an address of this machine.
	MasqueradeAlways
)

// String returns "never" or "always", the words of the YAML input.
func (m Masquerade) String() string {
	if m == MasqueradeAlways {
		return "always"
	}
	return "never"
}

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
