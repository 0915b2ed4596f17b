// SPDX-License-Identifier: Apache-2.0

// Package bits writes the bitmaps that answer "none of ours" before any hash
// lookup. Two bits that are set mean "perhaps". The two hashes are those of bpf/bits.h.
package bits

import (
	"encoding/binary"
	"fmt"
	"iter"
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

// Mark is what a bitmap keeps of a thing: the highest bits of it say in which word,
// the lowest twelve which two bits. It does not depend on the bitmap's size.
type Mark uint32

// of multiplies, and adds the halves of the product without carry.
func of(spread uint32) Mark {
	x := uint64(spread) * 0x9E3779B97F4A7C15
	return Mark(x ^ x>>32)
}

// Addr returns the mark of an address in vip_bits and peer_bits.
func Addr(addr netip.Addr) Mark { return of(spread(addr)) }

// Backend returns the mark of a backend in backend_bits and masq_bits.
func Backend(addr netip.AddrPort, proto lb.Protocol) Mark {
	return of(spread(addr.Addr()) + uint32(addr.Port()) + uint32(proto)<<16)
}

// Port returns the mark of a port in node_port_bits, which has a bit for each: it
// says the same one twice.
func Port(port uint16) Mark {
	word, bit := Mark(port>>6), Mark(port&63)
	return word<<22 | bit<<6 | bit
}

// Shift is how many bits of a mark do not say which word, by the bitmap's size.
type Shift int

// Of returns the Shift of a bitmap.
func Of(m *ebpf.Map) Shift { return Shift(bpf.BitsShift(m.MaxEntries())) }

// Bits returns the indices of a mark's two bits, which may be the same.
func (s Shift) Bits(m Mark) [2]uint32 {
	word := uint32(m) >> s << 6
	return [2]uint32{word | uint32(m&63), word | uint32(m>>6&63)}
}

// Table is one bitmap: vip_bits, peer_bits, backend_bits, masq_bits, node_port_bits or
// direct_bits. One goroutine writes.
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

// Mark sets both bits of a mark, by one store, and says which of them were set: of
// two that are the same the second was.
func (t *Table) Mark(m Mark) (were [2]bool) {
	b := t.Bits(m)
	w := t.words.Load64(b[0]>>6, 0)
	with := w | 1<<(b[0]&63)
	were = [2]bool{with == w, with>>(b[1]&63)&1 == 1}
	if with |= 1 << (b[1] & 63); with != w {
		t.words.Store64(b[0]>>6, 0, with)
	}
	return were
}

// Add sets both bits of a mark where programs set others: in direct_bits.
func (t *Table) Add(m Mark) {
	for _, bit := range t.Bits(m) {
		t.words.Or64(bit>>6, 0, 1<<(bit&63))
	}
}

// Clear clears a bit.
func (t *Table) Clear(bit uint32) {
	t.words.Store64(bit>>6, 0, t.words.Load64(bit>>6, 0)&^(1<<(bit&63)))
}

// Put sets both bits of a mark by system calls, where the memory is not mapped. One
// goroutine writes.
func Put(m *ebpf.Map, mark Mark) error {
	for _, bit := range Of(m).Bits(mark) {
		var word uint64
		if err := m.Lookup(bit>>6, &word); err != nil {
			return fmt.Errorf("read word %d of %s: %w", bit>>6, m, err)
		}
		if err := m.Put(bit>>6, word|1<<(bit&63)); err != nil {
			return fmt.Errorf("set bit %d of %s: %w", bit, m, err)
		}
	}
	return nil
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

// Those yields the bits of this bitmap that marks with a bit in one of another size
// may have.
func (t *Table) Those(bit uint32, of Shift) iter.Seq[uint32] {
	first, n := bit>>6, uint32(1)
	if of < t.Shift { // a larger one
		first >>= t.Shift - of
	} else {
		first, n = first<<(of-t.Shift), 1<<(of-t.Shift)
	}
	return func(yield func(uint32) bool) {
		for i := range n {
			if !yield((first+i)<<6 | bit&63) {
				return
			}
		}
	}
}

// Has reports whether both bits of a mark are set.
func (t *Table) Has(m Mark) bool {
	b := t.Bits(m)
	return t.IsSet(b[0]) && t.IsSet(b[1])
}

// IsSet reports whether a bit is set.
func (t *Table) IsSet(bit uint32) bool {
	return t.words.Load64(bit>>6, 0)>>(bit&63)&1 == 1
}
