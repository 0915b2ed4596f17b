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

const places = 100 // of the maps

// opened is a table, the map of its ids and the programs' variable.
type opened struct {
	*Table
	ids    *ebpf.Map
	factor *ebpf.Variable
}

func open(t *testing.T) (*ebpf.Map, opened) {
	t.Helper()
	m, ids := maptest.New(t, "backends", places), maptest.New(t, "backend_ids", places)
	factor := maptest.Variable(t, "ids_factor")
	table, err := Open(m, ids, factor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, opened{table, ids, factor}
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

// chain returns the nth of hashes that have one place, whatever the factor.
func (o opened) chain(n uint32) uint64 {
	inverse := o.Table.factor // modulo 2^3, and of each step modulo the square
	for range 5 {
		inverse *= 2 - o.Table.factor*inverse
	}
	return (7<<32 + uint64(n)) * inverse
}

// A hash is found wherever its id stands among those that have it alike, whoever
// comes and goes; and programs find what Find finds: bpf's tests.
func TestHashesAreFound(t *testing.T) {
	for _, leaving := range [][]uint32{{1, 2, 3, 4}, {4, 3, 2, 1}, {2, 4, 1, 3}, {3, 1, 4, 2}} {
		m, table := open(t)
		chain := table.chain
		want := map[uint64]uint32{chain(9): 0, 8: 99}
		table.Write(99, Record{Hash: 8, State: Active})
		for id := uint32(1); id <= 4; id++ {
			r := four
			r.Hash = chain(id)
			table.Write(id, r)
			r.Weight++
			table.Write(id, r) // an edit is not another entry
			want[r.Hash] = id
		}
		for n, id := range leaving {
			for hash, id := range want {
				if got := table.Find(hash); got != id {
					t.Errorf("leaving %v, after %d: hash %#x is of %d, want %d", leaving, n, hash, got, id)
				}
			}
			next := lookup(t, m, id).Next
			if n%2 == 0 {
				table.Free(id)
				table.Free(id) // it is free
			} else { // another's at once
				r := six
				r.Hash += uint64(id)
				table.Write(id, r)
				want[r.Hash] = id
			}
			want[chain(id)] = 0
			if b := lookup(t, m, id); b.Hash == 0 && b.Next != next {
				t.Errorf("leaving %v: who is at %d is led to %d, want %d", leaving, id, b.Next, next)
			}
		}
	}
}

func TestPutIsFoundByItsHash(t *testing.T) {
	m, table := open(t)
	one, other := table.chain(1), table.chain(2)
	for _, hash := range []uint64{one, other, one, 0} {
		if err := Put(m, table.ids, table.factor, 3, bpf.LBBackend{Hash: hash, Port: 80, Next: 50}); err != nil {
			t.Fatal(err)
		}
		for _, h := range []uint64{one, other} {
			if got, want := table.Find(h), uint32(0); h == hash && got != 3 || h != hash && got != want {
				t.Errorf("with hash %d: %d is of %d", hash, h, got)
			}
		}
		if b := lookup(t, m, 3); b.Hash != hash || b.Port != 80 || b.Next != 0 {
			t.Errorf("with hash %d: %+v", hash, b)
		}
	}
}
