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
	"answer: RST",
	"answer: none about a later fragment",
	"answer: none to what is no host",
	"answer: port unreachable",
	"answer: too many this second",
	"change: a VIP's address is assigned, or no more",
	"change: a backend drains or comes back",
	"change: a backend is added again",
	"change: a backend is removed",
	"change: a device's addresses",
	"change: a forward entry is lost, as in a race",
	"change: a frontend is added",
	"change: a frontend is removed",
	"change: a scheduler",
	"change: a weight",
	"change: ports of masquerading",
	"direct: SYN on a finished connection",
	"direct: a flow yields",
	"direct: gets another port",
	"direct: no other port",
	"direct: of a known connection with another port",
	"direct: remembered",
	"egress: untranslated",
	"flow: a hint is mended",
	"forward: SYN of a live flow stays",
	"forward: UDP, backend and service gone",
	"forward: of a known flow",
	"forward: with another client port",
	"fragment: a first",
	"fragment: a first too long to be put aside",
	"fragment: follows its first",
	"fragment: releases those that waited",
	"fragment: too long to wait",
	"fragment: too many wait",
	"fragment: waits for its first",
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
	"new flow: to a VIP",
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
	"pick: HASH",
	"pick: HASH falls back",
	"pick: LEAST",
	"refuse: RST",
	"refuse: empty pool",
	"refuse: no port at the backend",
	"repick: SYN on a finished flow",
	"repick: SYN, and the backend is gone or quiesced",
	"repick: UDP, backend gone",
	"reply: an ACK to a masqueraded port tells nothing",
	"reply: from the VIP",
	"reply: to the client's own port",
	"resource: SCTP keeps its port",
	"resource: another client port",
	"resource: no port is free",
	"resource: no room",
	"resource: no room for R1 or R4",
	"state: in changes it",
	"state: out changes it",
	"stray: dropped, no RST to a reset or a fragment",
	"stray: passed, the address is ours",
	"sweep: a dead entry is deleted",
	"sweep: a flow times out",
	"sweep: an orphan ends",
	"unwanted: extension",
	"unwanted: malformed",
	"unwanted: protocol",
	"unwanted: unknown_port",
}
