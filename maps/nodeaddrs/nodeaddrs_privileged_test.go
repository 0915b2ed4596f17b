// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nodeaddrs

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func TestSyncAddsAndRemovesExactly(t *testing.T) {
	table := Table{maptest.New(t, "node_addrs", 4)}
	var last []netip.Addr
	for _, list := range []string{
		"192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", "2001:db8::1 192.0.2.2 192.0.2.3", "192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7",
		"::ffff:192.0.2.4 192.0.2.4", "",
	} {
		want := make(map[netip.Addr]uint32)
		var addrs []netip.Addr
		var said []Addr
		for _, s := range strings.Fields(list) {
			a := netip.MustParseAddr(s)
			addrs = append(addrs, a)
			said = append(said, Addr{Addr: a})
			want[netip.AddrFrom16(a.As16())] = uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED)
		}
		added, removed, err := table.Sync(said)
		if err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		wantChanges(t, last, addrs, added, removed)
		last = addrs
		got := make(map[netip.Addr]uint32)
		err = batch.Each(table.Map, func(a [16]byte, flags *uint32) error {
			got[netip.AddrFrom16(a)] = *flags
			return nil
		})
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
			t.Errorf("addresses %q: error %v, (-want +got):\n%s", list, err, d)
		}
	}
}

// Node ports come to an address and leave it, and it neither comes nor goes.
func TestNodePortsComeToAnAddress(t *testing.T) {
	table := Table{maptest.New(t, "node_addrs", 4)}
	a := netip.MustParseAddr("192.0.2.1")
	for i, ports := range []bool{true, false, true} {
		added, removed, err := table.Sync([]Addr{{a, ports}})
		if err != nil || len(removed) > 0 || len(added) != 0 && i > 0 {
			t.Errorf("with node ports %v: added %v, removed %v, error %v", ports, added, removed, err)
		}
		var got uint32
		if err := table.Map.Lookup(a.As16(), &got); err != nil || got&uint32(bpf.LBNodeAddrFlagsNODE_ADDR_PORTS) != 0 != ports || got&uint32(bpf.LBNodeAddrFlagsNODE_ADDR_ASSIGNED) == 0 {
			t.Errorf("with node ports %v: flags %#x, %v", ports, got, err)
		}
	}
}

// wantChanges compares what Sync said with what two lists say.
func wantChanges(t *testing.T, before, after, added, removed []netip.Addr) {
	t.Helper()
	count := make(map[netip.Addr]int)
	for _, a := range added {
		count[a]++
	}
	for _, a := range removed {
		count[a]--
	}
	in := func(list []netip.Addr, a netip.Addr) int {
		if slices.ContainsFunc(list, func(b netip.Addr) bool { return a == b.Unmap() }) {
			return 1
		}
		return 0
	}
	all := slices.Concat(before, after, added, removed)
	if slices.ContainsFunc(all, func(a netip.Addr) bool { return count[a.Unmap()] != in(after, a.Unmap())-in(before, a.Unmap()) }) {
		t.Errorf("from %v to %v: added %v, removed %v", before, after, added, removed)
	}
}

func TestSyncGoesOnWhenTheMapIsFull(t *testing.T) {
	table := Table{maptest.New(t, "node_addrs", 2)}
	var addrs []Addr
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		addrs = append(addrs, Addr{Addr: netip.MustParseAddr(s)})
	}
	if _, _, err := table.Sync(addrs); err == nil || !strings.Contains(err.Error(), "write address 192.0.2.") {
		t.Errorf("error %v, want one that names the address", err)
	}
	n := 0
	if err := batch.Each(table.Map, func([16]byte, *uint32) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d addresses, %v, want two", n, err)
	}
	if _, _, err := table.Sync(addrs[:2]); err != nil {
		t.Error(err)
	}
}
