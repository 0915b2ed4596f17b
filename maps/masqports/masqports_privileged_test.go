// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package masqports

import (
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/maptest"
)

func between(first, last uint16) (ports []uint16) {
	for p := int(first); p <= int(last); p++ {
		ports = append(ports, uint16(p))
	}
	return ports
}

func TestProgramsFindTheListAndABitForEachPort(t *testing.T) {
	m := maptest.New(t, "masq_ports", uint32(bpf.LBLimitsMASQ_WORDS))
	table, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for _, ports := range [][]uint16{
		between(0, 65535),
		slices.Concat(between(1024, 29999), between(61000, 65535)),
		{5000}, {1, 2, 3}, {1, 2, 3, 4}, {63, 64, 65, 127, 128},
		nil,
	} {
		table.Write(ports)
		if got := table.Read(); !slices.Equal(got, ports) {
			t.Errorf("%d ports, read as %d", len(ports), len(got))
		}
		// as bpf/insert.h and bpf/masq.h read it
		words := make([]uint64, bpf.LBLimitsMASQ_WORDS)
		for i := range words {
			if err := m.Lookup(uint32(i), &words[i]); err != nil {
				t.Fatal(err)
			}
		}
		if words[0] != uint64(len(ports)) {
			t.Errorf("%d ports, counted %d", len(ports), words[0])
		}
		for i, p := range ports {
			if got := uint16(words[1+i/4] >> (16 * (i % 4))); got != p {
				t.Fatalf("port %d of the list is %d, want %d", i, got, p)
			}
		}
		for p := range 1 << 16 {
			_, want := slices.BinarySearch(ports, uint16(p))
			if got := words[int(bpf.LBLimitsMASQ_BITS)+p/64]>>(p%64)&1 == 1; got != want {
				t.Fatalf("%d ports: bit of port %d is %v", len(ports), p, got)
			}
		}
	}
}
