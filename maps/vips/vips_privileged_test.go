// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package vips

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/maptest"
)

var (
	web  = lb.Frontend{Addr: netip.MustParseAddrPort("203.0.113.10:80"), Protocol: lb.TCP}
	dns  = lb.Frontend{Addr: netip.MustParseAddrPort("203.0.113.10:53"), Protocol: lb.UDP}
	web6 = lb.Frontend{Addr: netip.MustParseAddrPort("[2001:db8::10]:80"), Protocol: lb.TCP}
)

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// masqueraded is dns as the map has it.
var masqueraded = lb.Frontend{Addr: dns.Addr, Protocol: dns.Protocol, Masquerade: lb.MasqueradeAlways}

// All that a frontend says comes back as it was.
func TestWhatAFrontendSaysComesBack(t *testing.T) {
	table, want := Table{Map: maptest.New(t, "vips", 32)}, make(map[lb.Frontend]uint32)
	for m := lb.MasqueradeNever; m <= lb.MasqueradeNode; m++ {
		for p := lb.PolicyCluster; p <= lb.PolicyLocalExternal; p++ {
			for _, restricted := range []bool{false, true} {
				n := uint32(len(want) + 1)
				f := lb.Frontend{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)), Protocol: lb.TCP, Masquerade: m, Policy: p, Restricted: restricted}
				want[f] = n
				do(t, table.Put(f, n))
			}
		}
	}
	wantEach(t, table, want)
}

func TestFrontendsAndMarksAreWrittenAsProgramsReadThem(t *testing.T) {
	m := maptest.New(t, "vips", 8)
	table := Table{Map: m}
	if table.Len() != 8 {
		t.Errorf("room for %d, want 8", table.Len())
	}
	do(t, table.Put(web, 7), table.Put(masqueraded, 8), table.Put(web6, 65535),
		table.Mark(web.Addr.Addr()), table.Mark(web6.Addr.Addr()))
	for k, want := range map[bpf.LBVipKey]bpf.LBVip{
		{Addr: web.Addr.Addr().As16(), Port: 80, Proto: 6}:  {Service: 7},
		{Addr: web.Addr.Addr().As16(), Port: 53, Proto: 17}: {Service: 8, Flags: uint32(bpf.LBVipFlagsVIP_MASQUERADE)},
		{Addr: web6.Addr.Addr().As16(), Port: 80, Proto: 6}: {Service: 65535},
		{Addr: web.Addr.Addr().As16()}:                      {},
		{Addr: web6.Addr.Addr().As16()}:                     {},
	} {
		var got bpf.LBVip
		if err := m.Lookup(k, &got); err != nil || got != want {
			t.Errorf("%+v: %+v, %v, want %+v", k, got, err, want)
		}
	}
	wantEach(t, table, map[lb.Frontend]uint32{web: 7, masqueraded: 8, web6: 65535})
	do(t, table.Delete(dns), table.Delete(dns), table.Unmark(web.Addr.Addr()), table.Unmark(web.Addr.Addr()))
	wantEach(t, table, map[lb.Frontend]uint32{web: 7, web6: 65535})
	var got bpf.LBVip
	if err := m.Lookup(bpf.LBVipKey{Addr: web.Addr.Addr().As16()}, &got); err == nil {
		t.Error("the mark is still there")
	}
}

func wantEach(t *testing.T, table Table, want map[lb.Frontend]uint32) {
	t.Helper()
	got := make(map[lb.Frontend]uint32)
	err := Each(table.Map, func(f lb.Frontend, service uint32) { got[f] = service })
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || err != nil {
		t.Errorf("error %v, frontends (-want +got):\n%s", err, d)
	}
}

func TestAFrontendMovesWithoutAGap(t *testing.T) {
	m := maptest.New(t, "vips", 8)
	table := Table{Map: m}
	do(t, table.Put(web, 1))
	var stop atomic.Bool
	failed := make(chan error, 1)
	go func() {
		for n := uint32(0); !stop.Load(); n++ {
			if err := table.Put(web, 1+n&1); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	seen, k := map[uint32]int{}, key(web)
	for n := 0; n < 20_000 || len(seen) < 2 && n < 10_000_000; n++ {
		var v bpf.LBVip
		if err := m.Lookup(k, &v); err != nil {
			t.Fatalf("after %d readings: %v", n, err)
		}
		seen[v.Service]++
	}
	stop.Store(true)
	do(t, <-failed)
	if len(seen) != 2 || seen[1] == 0 || seen[2] == 0 {
		t.Errorf("services and how often they were seen: %v, want 1 and 2", seen)
	}
}

func TestAFullMapIsAnErrorThatNamesTheVIP(t *testing.T) {
	table := Table{Map: maptest.New(t, "vips", 1)}
	do(t, table.Put(web, 1))
	err := table.Put(dns, 2)
	if want := "write VIP 203.0.113.10:53/UDP to map "; err == nil || err.Error()[:len(want)] != want {
		t.Errorf("error %v, want %q", err, want)
	}
	wantEach(t, table, map[lb.Frontend]uint32{web: 1})
}
