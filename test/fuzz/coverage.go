// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// coverage counts how often each rule was met.
type coverage map[string]uint64

// print writes the table of the rules.
func (c coverage) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, rule := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(t, "%d\t  %s\n", c[rule], rule)
	}
	return t.Flush()
}

// missing are rules that were never met.
func (c coverage) missing() (out []string) {
	for _, rule := range rules {
		if c[rule] == 0 {
			out = append(out, rule)
		}
	}
	return out
}

// rules are all that a run must meet.
var rules = []string{
	"affinity: a client is remembered",
	"affinity: a hint is mended",
	"affinity: is assured",
	"affinity: is over",
	"affinity: is put off as a flow lives",
	"affinity: keeps the client",
	"affinity: keeps the client at a quiesced backend",
	"affinity: keeps the client at an overloaded backend",
	"affinity: leads elsewhere than an older flow",
	"affinity: the backend is gone",
	"affinity: the backend is quiesced",
	"affinity: the backend serves no more",
	"answer: RST",
	"answer: none about a later fragment",
	"answer: none to what is no host",
	"answer: port unreachable",
	"answer: too many this second",
	"change: a VIP's address is assigned, or no more",
	"change: a backend drains or comes back",
	"change: a backend is added again",
	"change: a backend is removed",
	"change: a backend's health",
	"change: a device's addresses",
	"change: a forward entry is lost, as in a race",
	"change: a frontend is added",
	"change: a frontend is removed",
	"change: a run is older than a record",
	"change: a scheduler",
	"change: a service is added again",
	"change: a service is removed",
	"change: a weight",
	"change: how long flows live",
	"change: ports of masquerading",
	"change: the first backend of any port",
	"change: thresholds",
	"change: thresholds free a backend",
	"change: thresholds overload a backend",
	"change: what a service says",
	"direct: SYN on a finished connection",
	"direct: a flow yields",
	"direct: gets another port",
	"direct: no other port",
	"direct: of a known connection with another port",
	"direct: remembered",
	"egress: untranslated",
	"flow: a hint is mended",
	"forward: SYN of a live flow stays",
	"forward: of a known flow",
	"forward: with another client port",
	"fragment: a first",
	"fragment: a first too long to be put aside",
	"fragment: follows its first",
	"fragment: releases those that waited",
	"fragment: too long to wait",
	"fragment: too many wait",
	"fragment: waits for its first",
	"frontend: of any port",
	"icmp in: to the backend, about a reply",
	"icmp in: to the client, about a masqueraded packet",
	"icmp out: a redirect about a flow",
	"icmp out: none of ours",
	"icmp out: to the backend, as this node's",
	"icmp out: to the client, as the VIP's",
	"icmp: none of ours",
	"icmp: quotes too little",
	"icmp: with another client port",
	"insert: a dead entry is taken over",
	"insert: a direct connection has the port",
	"insert: a reply entry of the same VIP is kept",
	"insert: no room for the forward entry",
	"insert: no room for the reply entry",
	"insert: the reply tuple is taken",
	"load: overloads it no more",
	"load: overloads the backend",
	"lost: TCP ends",
	"lost: TCP goes on",
	"lost: UDP picks again",
	"lost: UDP, and the service is gone too",
	"lost: dropped",
	"masquerade: a new flow",
	"masquerade: a reply goes to the client",
	"masquerade: no address",
	"masquerade: no port is free",
	"masquerade: no room",
	"masquerade: no room for E2",
	"masquerade: of a known flow",
	"masquerade: the client's own port",
	"masquerade: the port of a closed connection",
	"masquerade: the port of a connection that was just closed",
	"new flow: keeps the port that was asked for",
	"new flow: to a VIP",
	"one packet: a first fragment leads the others",
	"one packet: a later fragment goes with its first",
	"one packet: goes its way",
	"pass: a fragment of others, at egress",
	"pass: direct, no first packet",
	"pass: neither a VIP nor a backend",
	"pass: no ports, at egress",
	"pass: no ports, to a backend",
	"pass: not IP, or for others",
	"pass: of no flow, at egress",
	"pass: to a VIP's address, not a service's",
	"pass: to a backend's address, another port",
	"pick: CURSOR",
	"pick: CURSOR finds nobody from the last pass's first on",
	"pick: CURSOR finds nobody in a long run",
	"pick: CURSOR finds nobody, and goes to the top",
	"pick: CURSOR finds nobody, and stays",
	"pick: CURSOR passes over many",
	"pick: CURSOR passes over some",
	"pick: HASH",
	"pick: HASH by a table",
	"pick: HASH falls back",
	"pick: HASH falls back by a table",
	"pick: HASH finds nobody to fall back on",
	"pick: LEAST",
	"pick: LEAST finds nobody",
	"pick: LEAST finds who is idle",
	"pick: a slot with nobody",
	"pick: of nobody",
	"pick: who is overloaded",
	"pick: who takes nothing new",
	"refuse: RST",
	"refuse: empty pool",
	"refuse: no port at the backend",
	"reply: an ACK to a masqueraded port tells nothing",
	"reply: from the VIP",
	"reply: to the client's own port",
	"resource: SCTP keeps its port",
	"resource: another client port",
	"resource: no port is free",
	"resource: no room",
	"resource: no room for R1 or R4",
	"reuse: SYN on a finished flow",
	"reuse: SYN, and the backend is gone or quiesced",
	"reuse: never",
	"reuse: not of a finished flow with affinity",
	"reuse: of finished ones",
	"reuse: the backend is quiesced, and lost flows are reset",
	"state: in changes it",
	"state: out changes it",
	"stray: dropped, no RST to a reset or a fragment",
	"stray: passed, the address is ours",
	"sweep: a dead entry is deleted",
	"sweep: a flow times out",
	"sweep: a lost flow ends",
	"sweep: an orphan ends",
	"unwanted: extension",
	"unwanted: malformed",
	"unwanted: protocol",
	"unwanted: unknown_port",
}
