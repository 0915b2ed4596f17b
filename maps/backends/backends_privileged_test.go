// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package backends

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func open(t *testing.T) (*ebpf.Map, *Table) {
	t.Helper()
	m := maptest.New(t, "backends", 100)
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, table
}

var (
	four = Record{Hash: 0x0123456789abcdef, Addr: netip.MustParseAddrPort("192.0.2.2:8080"), Weight: 65535, LastWeight: 65535, Service: 7, Order: 3, State: Active, Upper: 1<<32 - 1, Lower: 7}
	six  = Record{Hash: 0xfedcba9876543210, Addr: netip.MustParseAddrPort("[2001:db8::2]:65535"), Service: 65535, Order: 1 << 20, State: Draining, LastWeight: 9}
)

func lookup(t *testing.T, m *ebpf.Map, id uint32) (b bpf.LBBackend) {
	t.Helper()
	if err := m.Lookup(id, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBackendsAreWrittenAsProgramsReadThem(t *testing.T) {
	m, table := open(t)
	table.Write(1, four)
	table.Write(99, six)
	for id, r := range map[uint32]Record{1: four, 99: six} {
		want := bpf.LBBackend{
			Hash: r.Hash, Addr: r.Addr.Addr().As16(), Port: r.Addr.Port(), Weight: r.Weight, LastWeight: r.LastWeight, Upper: r.Upper, Lower: r.Lower,
			Service: r.Service, Order: r.Order, State: uint8(r.State),
		}
		if got := lookup(t, m, id); got != want {
			t.Errorf("backend %d:\n got %+v\nwant %+v", id, got, want)
		}
	}
	edited := four
	edited.Weight, edited.Order, edited.State, edited.Upper = 1, 0, Draining, 3
	table.Write(1, edited)
	if got := lookup(t, m, 1); got.Weight != 1 || got.Port != 8080 || got.Order != 0 || got.State != uint8(Draining) || got.Upper != 3 || got.LastWeight != 65535 || got.Hash != four.Hash {
		t.Errorf("edited: %+v", got)
	}
}

func TestAnIDMayBecomeAnothers(t *testing.T) {
	m, table := open(t)
	table.Write(5, six)
	table.Write(5, four)
	if got := lookup(t, m, 5); got.Addr != four.Addr.Addr().As16() || got.Hash != four.Hash || got.Port != 8080 {
		t.Errorf("%+v", got)
	}
}

func TestEachYieldsUsedRecordsOnly(t *testing.T) {
	m, table := open(t)
	table.Write(1, four)
	table.Write(2, six)
	table.Write(3, six)
	table.Free(3)
	if got := lookup(t, m, 3); got.Hash != 0 || got.State != uint8(Free) || table.Hash(3) != 0 {
		t.Errorf("a free record: %+v", got)
	}
	got := make(map[uint32]Record)
	err := Each(m, func(id uint32, r Record) { got[id] = r })
	want := map[uint32]Record{1: four, 2: six}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || err != nil {
		t.Errorf("error %v, records (-want +got):\n%s", err, d)
	}
}

func TestIDsAreEnteredAndDeleted(t *testing.T) {
	m := maptest.New(t, "backend_ids", 4)
	ids := IDs{Map: m}
	want := func(hash uint64, want uint32) {
		t.Helper()
		var got uint32
		if err := m.Lookup(hash, &got); got != want || (err == nil) != (want != 0) {
			t.Errorf("hash %#x: %d, %v, want %d", hash, got, err, want)
		}
	}
	if err := ids.Put(nil, nil); err != nil {
		t.Error(err)
	}
	if err := ids.Put([]uint64{1 << 63, 2, 3}, []uint32{10, 20, 30}); err != nil {
		t.Fatal(err)
	}
	if err := ids.Put([]uint64{2}, []uint32{21}); err != nil {
		t.Fatal(err)
	}
	want(1<<63, 10)
	want(2, 21)
	for range 2 { // it may be absent
		if err := ids.Delete(2); err != nil {
			t.Error(err)
		}
		want(2, 0)
	}
	want(3, 30)
	if err := ids.Put([]uint64{4, 5, 6}, []uint32{1, 2, 3}); err == nil {
		t.Error("five of four are taken")
	}
}
