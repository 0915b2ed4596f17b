// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nodeaddrs

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestSyncAddsAndRemovesExactly(t *testing.T) {
	table := Table{maptest.New(t, "node_addrs", 4)}
	for _, list := range []string{
		"192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", "2001:db8::1 192.0.2.2 192.0.2.3", "192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7",
		"::ffff:192.0.2.4 192.0.2.4", "",
	} {
		want := make(map[netip.Addr]uint32)
		var addrs []netip.Addr
		for _, s := range strings.Fields(list) {
			a := netip.MustParseAddr(s)
			addrs = append(addrs, a)
			want[netip.AddrFrom16(a.As16())] = uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)
		}
		if err := table.Sync(addrs); err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		got := make(map[netip.Addr]uint32)
		err := batch.Each(table.Map, func(a [16]byte, flags *uint32) error {
			got[netip.AddrFrom16(a)] = *flags
			return nil
		})
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
			t.Errorf("addresses %q: error %v, (-want +got):\n%s", list, err, d)
		}
	}
}

func TestSyncGoesOnWhenTheMapIsFull(t *testing.T) {
	table := Table{maptest.New(t, "node_addrs", 2)}
	var addrs []netip.Addr
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	if err := table.Sync(addrs); err == nil || !strings.Contains(err.Error(), "write address 192.0.2.") {
		t.Errorf("error %v, want one that names the address", err)
	}
	n := 0
	if err := batch.Each(table.Map, func([16]byte, *uint32) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d addresses, %v, want two", n, err)
	}
	if err := table.Sync(addrs[:2]); err != nil {
		t.Error(err)
	}
}
