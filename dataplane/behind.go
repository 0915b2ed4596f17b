// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"

	"github.com/waggle-lb/waggle/lb"
)

// Behind is what still translates connections of before, behind a dataplane:
// kube-proxy's rules in the stack. The zero value: nothing does.
type Behind struct {
	// Translates says that TCP and SCTP which belong to no flow, and begin none,
	// may be such a connection's: they are passed on.
	Translates bool
	// Ports are those of this machine that its masquerading holds, in any order:
	// ours takes others.
	Ports []uint16
	// Pairs are the ends of those connections that are not masqueraded, as a
	// backend sees them.
	Pairs []Pair
}

// Pair is the two ends of a connection, and of what protocol it is.
type Pair struct {
	Client, Backend netip.AddrPort
	Protocol        lb.Protocol
}
