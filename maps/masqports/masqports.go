// SPDX-License-Identifier: Apache-2.0

// Package masqports handles the array of the ports that masquerading may use:
// how many, the ports, and a bit for each.
package masqports

import (
	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// Table is the map masq_ports. One goroutine writes.
type Table struct{ area *mmap.Area }

// Open maps the table's memory.
func Open(m *ebpf.Map) (*Table, error) {
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &Table{area}, nil
}

// Close unmaps the memory.
func (t *Table) Close() error { return t.area.Close() }

// Write replaces the ports. Programs may meanwhile see some of the old and some
// of the new ones; the count changes when all of the list is there.
func (t *Table) Write(ports []uint16) {
	var bits [1 << 16 / 64]uint64
	for i := 0; i < len(ports); i += 4 {
		var word uint64
		for j, p := range ports[i:min(i+4, len(ports))] {
			word |= uint64(p) << (16 * j)
			bits[p/64] |= 1 << (p % 64)
		}
		t.area.Store64(uint32(1+i/4), 0, word)
	}
	for i, word := range bits {
		t.area.Store64(uint32(bpf.LBLimitsMASQ_BITS)+uint32(i), 0, word)
	}
	t.area.Store64(0, 0, uint64(len(ports)))
}

// Read returns the ports.
func (t *Table) Read() []uint16 {
	ports := make([]uint16, t.area.Load64(0, 0))
	for i := range ports {
		ports[i] = uint16(t.area.Load64(uint32(1+i/4), 0) >> (16 * (i % 4)))
	}
	return ports
}
