// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package prefixes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func networks(s string) (out []netip.Prefix) {
	for _, word := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(word))
	}
	return out
}

func TestPodsAreFoundByTheirNetworks(t *testing.T) {
	table := Pods{maptest.New(t, "prefixes", 8)}
	var have []netip.Prefix
	for _, c := range []struct{ networks, in, out string }{
		{"10.244.1.0/24 fd00:10:244:1::/64", "10.244.1.7 fd00:10:244:1::7", "10.244.2.7 fd00:10:244:2::7 ::a00:f401"},
		{"10.244.1.0/25 10.244.2.0/24", "10.244.1.127 10.244.2.7", "10.244.1.128 fd00:10:244:1::7"},
		{"::/0", "fd00::1", ""}, // every IPv6 address; that IPv4's is there too, mapped, does not show: see below
		{"", "", "10.244.1.7 fd00::1"},
	} {
		want := networks(c.networks)
		if err := table.Sync(have, want); err != nil {
			t.Fatal(err)
		}
		have = want
		for addrs, in := range map[string]bool{c.in: true, c.out: false} {
			for _, a := range strings.Fields(addrs) {
				var v uint32
				err := table.Map.Lookup(bpf.LBPrefixKey{Len: 128, Addr: netip.MustParseAddr(a).As16()}, &v)
				if (err == nil) != in {
					t.Errorf("networks %q: %s is there: %v", c.networks, a, err == nil)
				}
			}
		}
	}
}

func TestSourcesAreAServicesOwn(t *testing.T) {
	table := Sources{maptest.New(t, "source_ranges", 8)}
	one, two := networks("192.0.2.0/24 198.51.100.7/32"), networks("0.0.0.0/1")
	for service, want := range map[uint32][]netip.Prefix{1: one, 2: two} {
		if err := table.Sync(service, nil, want); err != nil {
			t.Fatal(err)
		}
	}
	admitted := func(service uint32, addr string) bool {
		var v uint32
		return table.Map.Lookup(bpf.LBSourceKey{Len: 160, Service: service, Addr: netip.MustParseAddr(addr).As16()}, &v) == nil
	}
	for who, want := range map[string]bool{"1 192.0.2.9": true, "1 198.51.100.7": true, "1 198.51.100.8": false, "2 192.0.2.9": false, "2 10.0.0.1": true} {
		var service uint32
		var addr string
		if _, err := fmt.Sscan(who, &service, &addr); err != nil {
			t.Fatal(err)
		}
		if admitted(service, addr) != want {
			t.Errorf("service and client %s: admitted %v", who, !want)
		}
	}
	got := make(map[uint32][]netip.Prefix)
	if err := table.Each(func(service uint32, p netip.Prefix) { got[service] = append(got[service], p) }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got[1], netip.Prefix.Compare)
	if !slices.Equal(got[1], one) || !slices.Equal(got[2], two) {
		t.Errorf("read back: %v", got)
	}
	if err := table.Sync(1, one, networks("192.0.2.0/24 192.0.2.0/24")); err != nil || admitted(1, "198.51.100.7") || !admitted(1, "192.0.2.1") {
		t.Errorf("after a change: error %v", err)
	}
}

func TestAFullMapIsAnErrorThatNamesTheNetwork(t *testing.T) {
	table := Sources{maptest.New(t, "source_ranges", 1)}
	if err := table.Sync(1, nil, networks("192.0.2.0/24 198.51.100.0/24")); err == nil || !strings.Contains(err.Error(), "write network 198.51.100.0/24 to map ") {
		t.Errorf("error %v", err)
	}
}

func TestServiceRangesAreMasks(t *testing.T) {
	m := maptest.New(t, "service_ranges", 1)
	if err := WriteServiceRanges(m, networks("10.96.0.0/12 fd00:10:96::/112")); err != nil {
		t.Fatal(err)
	}
	var got bpf.LBServiceRanges
	if err := m.Lookup(uint32(0), &got); err != nil {
		t.Fatal(err)
	}
	mask := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:fff0:0").As16()
	if got.Count != 2 || got.Addr[0] != netip.MustParseAddr("10.96.0.0").As16() || got.Mask[0] != mask {
		t.Errorf("%+v", got)
	}
	if err := WriteServiceRanges(m, slices.Repeat(networks("10.96.0.0/12"), MaxServiceRanges+1)); err == nil {
		t.Error("more than there is room for are taken")
	}
}
