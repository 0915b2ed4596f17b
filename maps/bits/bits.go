// SPDX-License-Identifier: Apache-2.0

// Package bits writes the bitmaps that answer "none of ours" before any hash
// lookup. A set bit means "perhaps". The two hashes are those of bpf/bits.h.
package bits

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// spread weighs the address's four words, as they lie in memory: little-endian,
// as the programs are compiled.
func spread(addr netip.Addr) uint32 {
	a := addr.As16()
	w := func(i int) uint32 { return binary.LittleEndian.Uint32(a[4*i:]) }
	return w(0)*0x9E3779B1 + w(1)*0x85EBCA77 + w(2)*0xC2B2AE3D + w(3)
}

// Shift is how many bits of a hash a bitmap leaves unused, by its size.
type Shift int

// Of returns the Shift of a bitmap.
func Of(m *ebpf.Map) Shift { return Shift(bpf.BitsShift(m.MaxEntries())) }

// of multiplies, and adds the halves of the product without carry.
func (s Shift) of(spread uint32) uint32 {
	x := uint64(spread) * 0x9E3779B97F4A7C15
	return uint32(x^x>>32) >> s
}

// Addr returns the index of the bit of an address in vip_bits and peer_bits.
func (s Shift) Addr(addr netip.Addr) uint32 {
	return s.of(spread(addr))
}

// Backend returns the index of the bit of a backend in backend_bits and masq_bits.
func (s Shift) Backend(addr netip.AddrPort, proto lb.Protocol) uint32 {
	return s.of(spread(addr.Addr()) + uint32(addr.Port()) + uint32(proto)<<16)
}

// Table is one bitmap: vip_bits, peer_bits, backend_bits, masq_bits or node_port_bits,
// whose index is the port. One goroutine writes.
type Table struct {
	Shift
	words *mmap.Area
}

// Open maps the bitmap's memory.
func Open(m *ebpf.Map) (*Table, error) {
	words, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	return &Table{Of(m), words}, nil
}

// Close unmaps the memory.
func (t *Table) Close() error { return t.words.Close() }

// Len returns the number of bits.
func (t *Table) Len() uint32 { return t.words.Len() * 64 }

// Set sets a bit.
func (t *Table) Set(bit uint32) {
	t.words.Store64(bit>>6, 0, t.words.Load64(bit>>6, 0)|1<<(bit&63))
}

// Clear clears a bit.
func (t *Table) Clear(bit uint32) {
	t.words.Store64(bit>>6, 0, t.words.Load64(bit>>6, 0)&^(1<<(bit&63)))
}

// CopyFrom makes the bitmap, which is new, say what one of the same size says.
func (t *Table) CopyFrom(from *Table) { t.words.CopyFrom(from.words) }

// Each yields the bits that are set.
func (t *Table) Each(yield func(bit uint32) bool) {
	for i := range t.words.Len() {
		for w := t.words.Load64(i, 0); w != 0; w &= w - 1 {
			if !yield(i<<6 + uint32(bits.TrailingZeros64(w))) {
				return
			}
		}
	}
}

// Span returns the bits of this bitmap whose hashes may have had a bit in one of
// another size: from first to last.
func (t *Table) Span(bit uint32, of Shift) (first, last uint32) {
	if of < t.Shift { // a larger one
		return bit >> (t.Shift - of), bit >> (t.Shift - of)
	}
	first = bit << (of - t.Shift)
	return first, first | (1<<(of-t.Shift) - 1)
}

// IsSet reports whether a bit is set.
func (t *Table) IsSet(bit uint32) bool {
	return t.words.Load64(bit>>6, 0)>>(bit&63)&1 == 1
}
