// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// exception is lines that nodes with IPVS do not pass.
type exception struct {
	// lines is a test and the name of a line, and maybe its family; * stands for anything.
	lines string
	why   string
}

// Why IPVS does not pass something.
const (
	oneList   = "a virtual service has one list of servers, the local ones while there are any: the machine and its pods get these"
	loopback  = "node ports are at no loopback address: the kernel's IPVS leads nothing that comes from one to another machine"
	bridged   = "br_netfilter puts together the fragments of what comes from pods at a bridge, and IPVS answers the whole datagram, as one packet, with packet too big"
	templates = "affinity lasts as long as a connection does, and a closed one is there for minutes"
)

// notByIPVS are the exceptions. docs/ipvs-dataplane.md has this table.
var notByIPVS = []exception{
	{"TestLoadBalancers/should work from pods", oneList},
	{"TestNetworking/Services Secondary IP Family should be able to handle large requests*: udp/ipv6", bridged},
	{"TestNetworking/should be able to handle large requests*: udp/ipv6", bridged},
	{"TestNodePortAddresses/a pod's loopback addresses are its own", loopback},
	{"TestNodePortAddresses/a socket bound to a loopback address reaches processes of its node alone", loopback},
	{"TestNodePortAddresses/clients of loopback addresses have affinity", loopback},
	{"TestNodePortAddresses/externalTrafficPolicy=*, from loopback addresses", loopback},
	{"TestNodePortAddresses/externalTrafficPolicy=Local leads to pods", oneList},
	{"TestNodePortAddresses/externalTrafficPolicy=Local leads to processes of nodes", oneList},
	{"TestSemantics/externalTrafficPolicy=Local at * (from pods)", oneList},
	{"TestSemantics/externalTrafficPolicy=Local at * (from the node)", oneList},
	{"TestServices/should have session affinity timeout work *", templates},
}

// notMet is how long an exception is given to show that it is none.
const notMet = 30 * time.Second

// excepted is the exception that a line of a test is, if it is one.
func excepted(test, name, family string) (exception, bool) {
	i := slices.IndexFunc(notByIPVS, func(x exception) bool { return x.covers(test+"/"+name, family) })
	if i < 0 {
		return exception{}, false
	}
	return notByIPVS[i], true
}

func (x exception) covers(name, family string) bool {
	begin, end, any := strings.Cut(x.lines, "*")
	return slices.ContainsFunc([]string{name, name + "/" + family}, func(n string) bool {
		return n == x.lines || any && len(n) >= len(begin)+len(end) && strings.HasPrefix(n, begin) && strings.HasSuffix(n, end)
	})
}

// row is the exception as the page has it.
func (x exception) row() string {
	return fmt.Sprintf("| `%s` | %s |", x.lines, x.why)
}

// lists are the lines of the tests that IPVS is asked: it leads no sockets.
var lists = map[string]func() []line{
	"TestConntrack": conntrackLines, "TestLoadBalancers": balancerLines, "TestManyServices": manyLines, "TestNetworking": networkingLines,
	"TestNodePortAddresses": ownAddressLines, "TestOutages": outageLines, "TestSemantics": semantics, "TestServices": serviceLines, "TestTopology": topologyLines,
}

// An exception whose line has another name now would be asked of IPVS unseen. What is one
// and passes fails where the line runs.
func TestExceptionsNameLines(t *testing.T) {
	for _, x := range notByIPVS {
		test, _, _ := strings.Cut(x.lines, "/")
		lines := lists[test]
		if lines == nil || !slices.ContainsFunc(lines(), func(l line) bool {
			return slices.ContainsFunc(l.runsFor(), func(family string) bool { return x.covers(test+"/"+l.name, family) })
		}) {
			t.Errorf("there is no line %q", x.lines)
		}
	}
}

func TestTheDocsListTheExceptions(t *testing.T) {
	const page = "docs/ipvs-dataplane.md"
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "| `Test") {
			got = append(got, strings.TrimSpace(l))
		}
	}
	for _, x := range notByIPVS {
		want = append(want, x.row())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: the rows of exceptions are not those of notByIPVS: write\n%s", page, strings.Join(want, "\n"))
	}
}
