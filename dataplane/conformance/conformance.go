// SPDX-License-Identifier: Apache-2.0

// Package conformance is the suite that every dataplane must pass, written as
// flows: this packet goes to that backend, is refused, is dropped, is none of
// ours. What a dataplane is made of does not matter; a Rig puts packets in
// where the network would, and says what became of them.
package conformance

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Rig is a dataplane and the little world that it needs. One goroutine at a time
// calls it.
type Rig interface {
	// Dataplane returns the present one: another after each Restart.
	Dataplane() dataplane.Dataplane
	// Send puts one packet where the network would: at ingress if it is from
	// a client, at egress if it is from a backend. What a masqueraded flow
	// meets at the other hook comes from the other side: a client's packet
	// that leaves is sent as from a Backend, a reply that comes in as from a
	// Client.
	Send(Packet) Outcome
	// Advance moves the clock, no further than by d, and lets expiry run to
	// its end: flows that are due no longer count. A second may pass before
	// their tuples are free for others.
	Advance(d time.Duration)
	// Restart lets the process die without Close and starts another on what
	// the kernel holds. Forwarding goes on meanwhile; nothing changes until
	// the new one's first Apply.
	Restart() error
	// AssignLocal says whether the address is one of the machine's own. At
	// first none is.
	AssignLocal(addr netip.Addr, assigned bool)
	// MasqueradeWith says which address packets that leave for a backend are
	// masqueraded with; the zero netip.Addr: none. At first there is none.
	MasqueradeWith(family lb.Family, addr netip.Addr)
}

// Side is where a packet comes from.
type Side uint8

// The two sides.
const (
	Client Side = iota
	Backend
)

// Flag is a set of TCP flags, numbered as in the header.
type Flag uint8

// The flags that decide about a flow.
const (
	FIN Flag = 1 << 0
	SYN Flag = 1 << 1
	RST Flag = 1 << 2
	ACK Flag = 1 << 4
)

// Packet is a TCP segment or a UDP datagram. Its headers have no options: with
// an empty payload it is 28 (UDP) or 40 (TCP) bytes of IPv4, 20 more of IPv6.
type Packet struct {
	From     Side
	Src, Dst netip.AddrPort
	Protocol lb.Protocol
	Flags    Flag // of TCP; none for UDP
	Payload  []byte
}

// The answers to a refused packet. A rig makes sure that they go from the
// packet's destination to its source.
const (
	Unreachable = "icmp-port-unreachable"
	Reset       = "rst"
)

// Outcome is what became of a packet.
type Outcome struct {
	// Verdict is Pass for a packet that goes on as it was, Forward for one
	// that was translated.
	Verdict lb.Verdict
	// Src and Dst are those of the packet that goes on. They do not matter if
	// none does.
	Src, Dst netip.AddrPort
	// Reason is what the packet was counted as: a name of bpf/drop.h, lower
	// case, without prefix; "" if it was not refused or dropped.
	Reason string
	// Answer is Unreachable or Reset for a refused packet, else "".
	Answer string
}

// testCase is one behaviour.
type testCase struct {
	name string
	only lb.Protocol // 0: for TCP and for UDP
	run  func(*env)
}

// group is cases of one kind.
type group struct {
	name  string
	cases []testCase
	alone bool // each case needs a rig that nobody used before
}

func groups() []group {
	return []group{
		{"schedule", slices.Concat(scheduleCases(), leastCases()), false},
		{"follow", followCases(), false},
		{"hash", slices.Concat(sourceCases(), destinationCases(), maglevCases()), false},
		{"thresholds", thresholdCases(), false},
		{"affinity", affinityCases(), false},
		{"flow", slices.Concat(flowCases(), neighbourCases(), othersCases()), false},
		{"backends", slices.Concat(backendCases(), removalCases(), returnCases(), quiesceCases()), false},
		{"one-packet", onePacketCases(), false},
		{"any-port", anyPortCases(), false},
		{"lost", lostCases(), false},
		{"reuse", slices.Concat(reuseCases(), afterwardsCases(), replyTakenCases(), portReuseCases()), false},
		{"masquerade", slices.Concat(masqueradeCases(), hairpinCases(), directCases(), besideCases()), false},
		{"policies", slices.Concat(poolCases(), clientCases()), false},
		{"node-ports", slices.Concat(nodePortCases(), restrictedCases()), false},
		{"refuse", slices.Concat(refusalCases(), noFlowCases(), resumeCases()), false},
		{"state", stateCases(), false},
		{"counters", slices.Concat(counterCases(), assignCases()), false},
		{"apply", slices.Concat(applyCases(), reportCases(), failureCases()), false},
		{"live", liveCases(), false},
		{"services", slices.Concat(serviceCases(), goneCases(), moveCases(), handoverCases()), false},
		{"restart", slices.Concat(restartCases(), meanwhileCases(), keptCases(), lostRestartCases()), false},
		{"fresh", freshCases(), true},
	}
}

// Run runs the suite: every behaviour for TCP and UDP over IPv4 and IPv6, groups of
// them at the same time. The cases of a group come one after the other, each with
// addresses of its own: they share a rig, until one fails. newRig fails t if it
// cannot set up, and cleans up with t.Cleanup.
func Run(t *testing.T, newRig func(t *testing.T) Rig) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			RunPart(t, family, proto, newRig)
		}
	}
}

// RunPart runs the part of the suite with this family and protocol.
func RunPart(t *testing.T, family lb.Family, proto lb.Protocol, newRig func(t *testing.T) Rig) {
	for _, g := range groups() {
		t.Run(family.String()+"/"+proto.String()+"/"+g.name, func(t *testing.T) {
			t.Parallel()
			g.run(t, newRig, env{family: family, proto: proto})
		})
	}
}

func (g *group) run(t *testing.T, newRig func(t *testing.T) Rig, world env) {
	for _, c := range g.cases {
		if c.only != 0 && c.only != world.proto {
			continue
		}
		if world.rig == nil || g.alone {
			world.rig = newRig(t)
		}
		world.space++
		ok := t.Run(c.name, func(t *testing.T) {
			e := world
			e.T = t
			c.run(&e)
		})
		if !ok {
			world.rig = nil
			continue
		}
		world.leave(t)
	}
}

// leave makes room for the next case.
func (e *env) leave(t *testing.T) {
	t.Helper()
	if rep := e.rig.Dataplane().Apply(nil); rep.Err != nil || len(rep.Failed) > 0 {
		t.Fatalf("apply the empty snapshot: error %v, failed %v", rep.Err, rep.Failed)
	}
	e.rig.Advance(time.Hour)
	e.rig.MasqueradeWith(e.family, netip.Addr{})
}
