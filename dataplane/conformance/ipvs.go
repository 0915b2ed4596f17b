// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/waggle-lb/waggle/lb"
)

// Why IPVS does not pass something.
const (
	own      = "each frontend is a service of its own to IPVS: it has a cursor, counts and affinity of its own"
	leaves   = "a server that leaves, or whose service does, stays in the kernel's list until its connections are over"
	order    = "the kernel's list has the order in which servers were added"
	unknown  = "a backend that is in no pool of a frontend's is not in the kernel"
	clock    = "the kernel's clock cannot be moved, and that would take too long"
	freed    = "a connection that another replaces counts until the kernel has removed it"
	sick     = "a server of UDP that is gone or not healthy is not in the kernel, so that its flows pick afresh"
	estimate = "the kernel's counters are an estimate, seconds old"
	counted  = "what IPVS refuses is not counted"
	global   = "what becomes of lost connections and used ports is the machine's setting, not a service's"
	tuples   = "IPVS knows a connection by its client and server, whatever was between, and gives nobody another port"
	tracking = "connection tracking has the connection before: the next has another port, or begins with the SYN's repetition"
	begin    = "IPVS makes connections of SYN and SYN+ACK only, and of SCTP's INIT"
	hooks    = "there is no second hook: what comes in is translated on its way out"
	ports    = "IPVS does not translate ports of a service of any port"
	martian  = "the kernel takes no packets of others to its loopback addresses"
	none     = "the kernel takes a mask of at least one bit for IPv6"
	maximum  = "the kernel takes no thresholds beyond 1073741823"
	moved    = "a connection is the VIP's and the server's, whoever has the VIP"
)

// notOfIPVS is what the kernel's IPVS cannot pass.
var notOfIPVS = exceptions{
	"follow":   leaves,
	"state":    clock,
	"counters": estimate,

	"schedule/rr moves a backend that is added again to the head":    leaves,
	"UDP schedule/an unhealthy backend is one of weight zero to rr":  sick,
	"UDP schedule/lc and wlc":                                        sick,
	"UDP hash/sh: who cannot serve*":                                 sick,
	"UDP hash/dh: who cannot serve*":                                 sick,
	"UDP hash/mh: a quiesced backend keeps its slots*":               sick,
	"schedule/rr from empty and back":                                leaves,
	"schedule/wrr keeps its place when frontends change":             own,
	"schedule/frontends of a service share its place":                own,
	"schedule/counts are of all frontends together":                  own,
	"hash/sh: each change fills the buckets anew":                    leaves,
	"thresholds/without a lower threshold*":                          clock,
	"thresholds/the quarter is rounded down*":                        clock,
	"thresholds/an upper threshold of one*":                          clock,
	"thresholds/equal thresholds*":                                   clock,
	"thresholds/what was not overloaded*":                            clock,
	"thresholds/counters tell who is overloaded":                     clock,
	"thresholds/a backend that stops*":                               clock,
	"thresholds/thresholds are edited where a backend is overloaded": clock,
	"thresholds/an overloaded*":                                      clock,
	"thresholds/a removed backend*":                                  clock,
	"thresholds/a service that is back*":                             clock,
	"thresholds/what picks afresh frees its place":                   freed,
	"thresholds/thresholds are a service's own":                      own,
	"restart/an overloaded backend is so*":                           clock,
	"restart/a removed backend that is overloaded*":                  clock,
	"restart/loads are as before*":                                   clock,
	"one-packet/affinity keeps clients*":                             clock,
	"thresholds/a closed connection counts until it ends":            clock,

	"affinity/a client is free after the timeout":                       clock,
	"affinity/each new flow sets the timeout anew":                      clock,
	"affinity/packets of a flow do not":                                 clock,
	"affinity/a client is kept as long as a flow of it lives*":          clock,
	"affinity/if it lapses, flows that live do not keep a client":       clock,
	"affinity/a minute at a time":                                       clock,
	"affinity/the minute begins at the end*":                            clock,
	"affinity/a closed connection keeps its client too":                 clock,
	"affinity/a flow keeps its client at its own backend only":          clock,
	"affinity/flows from before the affinity keep nobody":               clock,
	"affinity/a client is at one backend through all frontends":         own,
	"flow/clients that share a port or an address have their own flows": tracking,
	"backends/a SYN to a removed backend picks afresh":                  tracking,
	"backends/a SYN to a quiesced backend picks afresh":                 tracking,
	"backends/a SYN to the only backend, quiesced, is refused":          tracking,

	"UDP affinity/a client of an unhealthy backend is free also*":     sick,
	"UDP affinity/a client of a removed backend is free also*":        sick,
	"affinity/quiesced backends keep their clients*":                  global,
	"affinity/a client is kept through changes of frontends*":         own,
	"UDP backends/a backend that is back gets new flows*":             sick,
	"one-packet/each datagram is scheduled by itself":                 tracking,
	"one-packet/flows are made when the word is gone":                 tracking,
	"any-port/a port comes to another service and back*":              moved,
	"any-port/all ports and one of them are one service":              ports,
	"any-port/without the frontend of all ports*":                     ports,
	"any-port/flows of a removed backend":                             global,
	"any-port/all ports count at one backend":                         estimate,
	"any-port/the client's own connection to any port of a backend*":  tuples,
	"any-port/a packet to any of its ports that is found at egress*":  hooks,
	"any-port/all ports lead to the one that the backend has":         ports,
	"any-port/one client port at two ports of the VIP*":               ports,
	"any-port/backends of either kind stand side by side":             ports,
	"one-packet/a packet to it that is found at egress is dropped":    hooks,
	"one-packet/nothing is kept of it, and it counts as a connection": estimate,

	"lost/dropped*":                                                  global,
	"lost/kept or dropped ones do not":                               global,
	"lost/what becomes of lost connections may change":               global,
	"lost/unhealthy, removed, back and unhealthy, healthy: dropped*": global,
	"lost/reset, a connection's next segment is answered so":         tracking,
	"lost/reset, a SYN picks afresh":                                 tracking,
	"lost/reset, all entries of a masqueraded flow end":              tracking,
	"reuse/a SYN on a connection's tuple*":                           global,
	"reuse/an expired flow's tuple picks afresh":                     clock,
	"reuse/a connection that is never to be replaced*":               global,
	"reuse/a reply tuple*":                                           tuples,
	"reuse/many VIPs of one client port*":                            tuples,
	"reuse/a connection with another port closes*":                   tuples,

	"policies/flows stay with a backend that leaves its pools":  unknown,
	"policies/policies change in place, and flows stay":         unknown,
	"policies/affinity is the service's*":                       own,
	"policies/a SYN on a flow of a backend that is in no pool*": tracking,

	"refuse/a removed frontend's port is unknown*":           leaves,
	"refuse/a segment of no connection is reset":             begin,
	"refuse/a segment of no connection is the stack's*":      begin,
	"refuse/a packet to a frontend that is found at egress*": hooks,
	"refuse/what is refused is counted by its reason*":       counted,
	"refuse/a segment of no connection goes*":                begin,
	"refuse/so it does at an address*":                       begin,
	"refuse/a FIN of no connection goes*":                    begin,
	"refuse/what cannot be amid a connection does not":       begin,
	"refuse/nor does it if nobody is there":                  begin,
	"refuse/a connection that was silent*":                   begin,
	"refuse/a connection that is reset*":                     begin,
	"refuse/a client that is kept goes where it is kept":     begin,

	"apply/backends are held in order, through changes":                order,
	"apply/SCTP is supported where no port changes":                    begin,
	"live/all that a service says is held, and each change is one":     maximum,
	"live/all that a service says is read back after a restart":        maximum,
	"live/established flows stay whatever else is said":                global,
	"services/flows of a removed service go on to their end":           leaves,
	"services/a SYN on the finished connection of a removed service*":  leaves,
	"services/a new name is another service*":                          moved,
	"services/a VIP that moves to another service takes no flow along": moved,
	"masquerade/a flow first: the client's own*":                       tuples,
	"masquerade/the client's own connection*":                          tuples,
	"masquerade/a flow without an answer yields*":                      tuples,
	"masquerade/a closed flow yields*":                                 tuples,
	"masquerade/a masqueraded flow first*":                             tuples,
	"masquerade/a masqueraded client at two VIPs*":                     tuples,
	"masquerade/replies to a client that is a backend too*":            tuples,
	"node-ports/a node port at a loopback address*":                    martian,
	"node-ports/the same number of the other protocol*":                leaves,
	"node-ports/a node port that is gone*":                             leaves,
	"UDP services/two services exchange their VIPs":                    moved,
	"lost/a datagram that nobody takes is refused*":                    global,
	"masquerade/without an address of the machine nothing leaves":      counted,
	"node-ports/flows to a VIP of a removed service*":                  leaves,
	"restart/dropped flows*":                                           global,
	"restart/counters go on":                                           estimate,
	"restart/a service that left meanwhile is removed*":                leaves,
	"restart/clients are kept as long as before":                       clock,
	"fresh/a thousand services keep to themselves":                     leaves,
	"restart/a connection keeps its client*":                           clock,
	"restart/when a connection's port is used again*":                  global,
	"TCP restart/reset, flows of a backend that left before end*":      begin,
	"ipv6 affinity/no bit counts*":                                     none,
}

// RunIPVS runs the part of the suite that IPVS can pass, as RunPart does, but one
// group after the other: time passes there.
func RunIPVS(t *testing.T, family lb.Family, proto lb.Protocol, newRig func(t *testing.T) Rig) {
	for _, g := range notOfIPVS.without(family, proto) {
		t.Run(family.String()+"/"+proto.String()+"/"+g.name, func(t *testing.T) {
			g.run(t, newRig, env{family: family, proto: proto})
		})
	}
}
