// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testServers = []netip.Addr{netip.MustParseAddr("198.19.1.2"), netip.MustParseAddr("198.19.1.3")}

func TestTheTestedServiceIsInTheMiddle(t *testing.T) {
	for n, at := range map[int]int{1: 0, 2: 1, 1000: 500, 10000: 5000} {
		all, tested := services(n, testServers)
		if len(all) != n || all[at].name != tested.name || tested.name != "bench/tested" {
			t.Errorf("of %d: %d, and at %d %q, want the tested one", n, len(all), at, all[at].name)
		}
		used := make(map[netip.Addr]bool)
		for _, s := range all {
			if used[s.vip] {
				t.Fatalf("of %d: %s has the cluster IP of another, %s", n, s.name, s.vip)
			}
			used[s.vip] = true
			for _, e := range s.ports[0].endpoints {
				if used[e.Addr()] {
					t.Fatalf("of %d: %s has an address of another, %s", n, s.name, e)
				}
				used[e.Addr()] = true
			}
		}
	}
}

// What an address crosses when it is counted up.
func TestPlus(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{{0, "10.96.0.1"}, {254, "10.96.0.255"}, {255, "10.96.1.0"}, {65535, "10.97.0.0"}} {
		if got := plus(firstVIP, tt.n); got.String() != tt.want {
			t.Errorf("plus %d: %s, want %s", tt.n, got, tt.want)
		}
	}
}

// TestRulesOfAPort: what is written for one port with two endpoints, and the order.
func TestRulesOfAPort(t *testing.T) {
	all, tested := services(3, testServers)
	rules := iptablesRules(all)
	var dispatch []string
	for _, line := range strings.Split(rules, "\n") {
		if strings.HasPrefix(line, "-A KUBE-SERVICES") {
			dispatch = append(dispatch, line)
		}
	}
	if len(dispatch) != 1+4+1+1 || !strings.Contains(dispatch[1], "-d "+tested.vip.String()+" --dport 80 ") || !strings.Contains(dispatch[6], "-j KUBE-NODEPORTS") {
		t.Errorf("rules of KUBE-SERVICES: %s", strings.Join(dispatch, "\n"))
	}
	chain := "KUBE-SVC-" + hash(16, "bench/tested:tcp-80", "tcp")
	var picks []string
	for _, line := range strings.Split(rules, "\n") {
		if strings.HasPrefix(line, "-A "+chain) {
			picks = append(picks, line)
		}
	}
	if len(picks) != 3 || !strings.Contains(picks[1], "--probability 0.5000000000 -j KUBE-SEP-") || strings.Contains(picks[2], "statistic") {
		t.Errorf("rules of %s: %s", chain, strings.Join(picks, "\n"))
	}
	nft := nftablesRules(all, "198.19.1.1")
	for _, want := range []string{
		"meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 198.19.1.2 . 8080, 1 : 198.19.1.3 . 8080 }; }",
		"meta l4proto udp dnat to 198.19.1.2:9; }",
		"ip saddr != 198.18.0.0/15 mark set", "elements = { 198.19.1.1 }", "elements = { 10.96.0.1, 10.96.0.2, 10.96.0.3 }",
		tested.vip.String() + " . tcp . 80 : goto service-",
	} {
		if !strings.Contains(nft, want) {
			t.Errorf("nftables: no %q in\n%s", want, nft)
		}
	}
	want := "-A -t 10.96.0.2:80 -s rr\n-a -t 10.96.0.2:80 -r 198.19.1.2:8080 -m -w 1\n-a -t 10.96.0.2:80 -r 198.19.1.3:8080 -m -w 1\n"
	if got := ipvsadmRules(all); !strings.Contains(got, want) || !strings.Contains(got, "-A -u 10.96.0.2:9 -s rr\n") {
		t.Errorf("ipvsadm: %s", got)
	}
}

func TestParseWrk(t *testing.T) {
	got, err := parseWrk([]byte("Running 1s test\n  8 connections {x}\n" + `{"requests":500,"duration":1000000,"p50":10,"p99":20,"errors":0}` + "\n"))
	if want := (wrkResult{Requests: 500, Duration: 1e6, P50: 10, P99: 20}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{
		"", "unable to connect", `{"requests":`, `{"requests":500,"duration":1000000,"errors":1}`, `{"requests":0,"duration":1000000,"errors":0}`,
	} {
		if _, err := parseWrk([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a result", bad)
		}
	}
}

func TestParseFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string // of the error
	}{
		{[]string{"-services", "1,5"}, ""},
		{[]string{"-services", "1,x"}, "numbers from 1"},
		{[]string{"-services", "0"}, "numbers from 1"},
		{[]string{"-repeats", "0"}, "write 1 or more"},
		{[]string{"-dataplanes", "direct,ipvs"}, `"ipvs": write some of direct,waggle,waggle-sockets,waggle-xdp,nftables,iptables,iptables-nft`},
		{[]string{"-measure", "udp,"}, "write some of"},
	} {
		fs := flag.NewFlagSet("benchnet", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		o, err := parse(fs, tt.args)
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: %v, want %q", tt.args, err, tt.want)
		}
		if tt.want == "" && (err != nil || !cmp.Equal(o.services, []int{1, 5}) || nameList(o.dataplanes) != "direct,waggle,waggle-sockets,waggle-xdp,nftables,iptables") {
			t.Errorf("%v: %+v, %v", tt.args, o, err)
		}
	}
}
