// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/sync/file"
)

func TestRulesHaveAllServices(t *testing.T) {
	for _, tc := range []struct {
		n, frontends int
		backend      string
	}{
		{1, 2, "198.19.1.2:8080"}, {3, 2, "198.19.1.2:8080"}, {10000, 10000, "198.19.1.2:8080"}, {1000, 1000, "[fd00:e:1::2]:8080"},
	} {
		backend := netip.MustParseAddrPort(tc.backend)
		to := vips(tc.n, backend.Addr().Is6())
		cfg, err := file.Parse("rules", []byte(ipvsRules(to, backend)), file.Options{})
		if err != nil {
			t.Fatalf("%d services: %v", tc.n, err)
		}
		seen := make(map[string]bool)
		for _, s := range cfg.Services {
			for _, f := range s.Frontends {
				if !vipNetworks[backend.Addr().Is6()].Contains(f.Addr.Addr()) || len(s.Backends) != 1 || s.Backends[0].Addr != backend {
					t.Fatalf("%d services: %+v", tc.n, s)
				}
				seen[f.String()] = true
			}
		}
		rules := nftRules(to, backend)
		if got := strings.Count(rules, " : goto service-"); got != tc.frontends || len(seen) != tc.frontends {
			t.Errorf("%d services: IPVS and waggle have %d, nftables %d, want %d", tc.n, len(seen), got, tc.frontends)
		}
	}
}

// The guest's half reads it where the repository is.
func TestKubeProxysTableIsThere(t *testing.T) {
	b, err := os.ReadFile("../../" + kubeProxyRules)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"table ip kube-proxy {", "table ip6 kube-proxy {", "map service-ips", "set cluster-ips", "chain mark-for-masquerade"} {
		if !strings.Contains(string(b), word) {
			t.Errorf("%s has no %q", kubeProxyRules, word)
		}
	}
}

func TestTheGuestIsToldThePlan(t *testing.T) {
	for _, tc := range []struct {
		services string
		word     string // of an error
	}{
		{"1,10000", ""}, {"5", ""},
		{"", "rising order"}, {"0", "rising order"}, {"5,5", "rising order"}, {"60001", "1 to 60000"}, {"1,x", "rising order"},
	} {
		p := plan{repeats: 3, ipv6: true}
		err := p.parse(tc.services)
		if tc.word != "" {
			if err == nil || !strings.Contains(err.Error(), tc.word) {
				t.Errorf("%q: %v, want %q", tc.services, err, tc.word)
			}
			continue
		}
		if got := strings.Join(p.arguments("/w"), " "); err != nil || got != "-waggle /w -services "+tc.services+" -ipv6=true -repeats 3" {
			t.Errorf("%q: %s, %v", tc.services, got, err)
		}
	}
	if err := (&plan{}).parse("1"); err == nil {
		t.Error("no repeats are taken")
	}
}
