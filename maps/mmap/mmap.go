// SPDX-License-Identifier: Apache-2.0

// Package mmap gives atomic access to the elements of array maps that were
// made with BPF_F_MMAPABLE. It is the one place that turns map memory into
// pointers: a word is stored by one aligned instruction, so a program on
// another CPU sees the old value or the new one, never a mix.
package mmap

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Area is the memory of one array map. Loads and stores may come from any
// goroutine; Close must come after the last of them.
type Area struct {
	mem    []byte
	stride uint32
	max    uint32
}

// Open maps the memory of m, for reading and writing. It needs a descriptor
// that was opened for both; the kernel refuses others with EACCES.
func Open(m *ebpf.Map) (*Area, error) {
	// kernel/bpf/arraymap.c: elements lie at multiples of 8 bytes, the area is
	// whole pages.
	stride := (m.ValueSize() + 7) &^ 7
	page := os.Getpagesize()
	size := (int(stride)*int(m.MaxEntries()) + page - 1) / page * page
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", m, err)
	}
	return &Area{mem: mem, stride: stride, max: m.MaxEntries()}, nil
}

// Close unmaps the memory.
func (a *Area) Close() error {
	mem := a.mem
	a.mem = nil
	if mem == nil {
		return nil
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("munmap: %w", err)
	}
	return nil
}

// Len returns the number of elements.
func (a *Area) Len() uint32 { return a.max }

// at returns the address of size bytes at offset in element i; it panics
// outside of the map, as an index does outside of a slice.
func (a *Area) at(i, offset, size uint32) unsafe.Pointer {
	if i >= a.max || offset+size > a.stride || offset%size != 0 {
		panic(fmt.Sprintf("map memory: element %d of %d, %d bytes at %d", i, a.max, size, offset))
	}
	return unsafe.Pointer(&a.mem[int(i)*int(a.stride)+int(offset)])
}

// Load64 loads the aligned 8 bytes at offset (in bytes) of element i.
func (a *Area) Load64(i, offset uint32) uint64 {
	return atomic.LoadUint64((*uint64)(a.at(i, offset, 8)))
}

// Store64 stores the aligned 8 bytes at offset (in bytes) of element i.
func (a *Area) Store64(i, offset uint32, v uint64) {
	atomic.StoreUint64((*uint64)(a.at(i, offset, 8)), v)
}

// Add64 adds v to the aligned 8 bytes at offset (in bytes) of element i.
func (a *Area) Add64(i, offset uint32, v uint64) {
	atomic.AddUint64((*uint64)(a.at(i, offset, 8)), v)
}

// Or64 sets bits in the aligned 8 bytes at offset (in bytes) of element i.
func (a *Area) Or64(i, offset uint32, bits uint64) {
	atomic.OrUint64((*uint64)(a.at(i, offset, 8)), bits)
}

// Load32 loads the aligned 4 bytes at offset (in bytes) of element i.
func (a *Area) Load32(i, offset uint32) uint32 {
	return atomic.LoadUint32((*uint32)(a.at(i, offset, 4)))
}

// Store32 stores the aligned 4 bytes at offset (in bytes) of element i.
func (a *Area) Store32(i, offset, v uint32) {
	atomic.StoreUint32((*uint32)(a.at(i, offset, 4)), v)
}

// CopyFrom copies all elements of a map that is no larger, to the first of this one, which
// no program uses. What programs change meanwhile comes as it was before or after.
func (a *Area) CopyFrom(from *Area) {
	if from.stride != a.stride || from.max > a.max {
		panic(fmt.Sprintf("map memory: %d elements of %d bytes to %d of %d", from.max, from.stride, a.max, a.stride))
	}
	copy(a.mem, from.mem[:int(from.max)*int(from.stride)])
}

// Slice returns the elements, without any order of loads and stores: for memory
// that no program uses meanwhile. T is the map's value, of a size that is a
// multiple of 8 bytes. The slice ends with Close.
func Slice[T any](a *Area) []T {
	var v T
	if unsafe.Sizeof(v) != uintptr(a.stride) {
		panic(fmt.Sprintf("map memory: elements of %d bytes as %T", a.stride, v))
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(a.mem))), a.max)
}
