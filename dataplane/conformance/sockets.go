// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/waggle-lb/waggle/lb"
)

// Why something says nothing of sockets.
const (
	asPackets  = "it does not depend on who connects"
	unseen     = "the hooks see no packets: a socket counts until it is closed, whatever TCP says"
	bytes      = "the hooks count connections, not packets"
	resent     = "a SYN that is sent again is the kernel's: it goes where the socket was led"
	untouched  = "a led socket asks its backend itself: there is nothing to translate, and its port is the kernel's matter"
	neighbours = "who asks by a socket is on this machine, and no outsider"
	ends       = "a led socket's connection is its backend's alone: nothing is there to drop or to end it"
	lapses     = "a socket does not put off the end of its client's affinity"
	told       = "a socket is told the VIP, whoever schedules its datagrams"
)

// notOfSockets says nothing of sockets which are led before there are packets.
var notOfSockets = exceptions{
	"follow":     asPackets,
	"apply":      asPackets,
	"fresh":      asPackets,
	"lost":       ends,
	"reuse":      untouched,
	"masquerade": untouched,
	"state":      unseen,
	"counters":   bytes,

	"schedule/to lc an active connection is 257 closed ones":                                     unseen,
	"schedule/to sed a closed connection does not count":                                         unseen,
	"schedule/to nq a backend whose connections closed is idle":                                  unseen,
	"refuse/a connection that is reset does not go on elsewhere":                                 unseen,
	"backends/a SYN to a removed backend picks afresh":                                           resent,
	"backends/a SYN to a quiesced backend picks afresh":                                          resent,
	"backends/a SYN to the only backend, quiesced, is refused":                                   resent,
	"policies/a SYN on a flow of a backend that is in no pool picks afresh":                      resent,
	"any-port/a connection's SYN picks afresh with its port":                                     resent,
	"affinity/a client is kept as long as a flow of it lives, and up to a minute":                lapses,
	"affinity/a minute at a time":                                                                lapses,
	"affinity/the minute begins at the end, if that is near":                                     lapses,
	"affinity/a closed connection keeps its client too":                                          lapses,
	"restart/a connection keeps its client, whoever made it":                                     lapses,
	"node-ports/a node port with external policy Local: the client is shown, or nobody is local": neighbours,
	"node-ports/a node port at a loopback address is not the network's":                          neighbours,
	"policies/policies change in place, and flows stay":                                          neighbours,
	"policies/pods and the machine itself have all backends by external policy Local":            neighbours,
	"node-ports/node ports outlive the process":                                                  untouched,
	"policies/outsiders are masqueraded, pods are not":                                           untouched,
	"policies/the machine itself is masqueraded, pods and outsiders are not":                     untouched,
	"policies/each frontend masquerades in its own way":                                          untouched,
	"policies/where pods are may change, for new flows":                                          untouched,
	"any-port/the client's own connection to any port of a backend keeps apart":                  untouched,
	"any-port/one client port at two ports of the VIP is two to the backend":                     untouched,
	"any-port/a masqueraded client of any port is led back":                                      untouched,
	"any-port/flows of a removed backend":                                                        ends,
	"any-port/all ports count at one backend":                                                    bytes,
	"any-port/single datagrams go to the port that was asked for":                                told,
	"one-packet/answers come from the backend's own address":                                     told,
	"one-packet/nothing is kept of it, and it counts as a connection":                            bytes,
	"restart/counters go on":                                                                     bytes,
	"restart/when a connection's port is used again is as was said":                              resent,
	"restart/dropped flows stay so, and go on when the backend is back":                          ends,
	"restart/reset, flows of a backend that left meanwhile end":                                  ends,
	"restart/reset, flows of a backend that left before end, with nobody there and after":        ends,
	"restart/dropped flows of a service that is gone stay so":                                    ends,
	"restart/reset, flows of a service that is gone end":                                         ends,
}

// RunSockets runs the part of the suite that holds for sockets too, as RunPart does:
// the rig's clients are sockets, bound to a packet's source. What begins a flow makes
// them connect or send, and a flow that ends is a socket that is closed.
func RunSockets(t *testing.T, family lb.Family, proto lb.Protocol, newRig func(t *testing.T) Rig) {
	for _, g := range notOfSockets.without(family, proto) {
		t.Run(family.String()+"/"+proto.String()+"/"+g.name, func(t *testing.T) {
			t.Parallel()
			g.run(t, newRig, env{family: family, proto: proto})
		})
	}
}
