// SPDX-License-Identifier: Apache-2.0

// Package backends handles the array of backends and the hash that leads from
// a backend's identity to its place in that array.
package backends

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// State is what a backend's record says about it.
type State = bpf.LBBackendState

// The states.
const (
	Free      State = bpf.LBBackendStateBACKEND_FREE
	Active    State = bpf.LBBackendStateBACKEND_ACTIVE
	Draining  State = bpf.LBBackendStateBACKEND_DRAINING
	Unhealthy State = bpf.LBBackendStateBACKEND_UNHEALTHY
)

// Record is one backend. Order is its place in its service's list, from 0;
// LastWeight the last weight that was not 0, if there was one.
type Record struct {
	Hash               uint64
	Addr               netip.AddrPort
	Weight, LastWeight uint16
	Service            uint32
	Order              uint32
	State              State
	Outside            lb.Pools
	Upper, Lower       uint32
}

const (
	hashOffset    = uint32(unsafe.Offsetof(bpf.LBBackend{}.Hash))
	addrOffset    = uint32(unsafe.Offsetof(bpf.LBBackend{}.Addr))
	portOffset    = uint32(unsafe.Offsetof(bpf.LBBackend{}.Port))
	serviceOffset = uint32(unsafe.Offsetof(bpf.LBBackend{}.Service))
	orderOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.Order))
	stateOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.State))
	upperOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.Upper))
)

// Table is the map backends. One goroutine writes.
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

// Len returns the number of elements; 0 is never a backend.
func (t *Table) Len() uint32 { return t.area.Len() }

// Write writes a whole record, its hash last: until then nobody takes the id
// for the backend. For a record that has its hash already it edits in place.
func (t *Table) Write(id uint32, r Record) {
	a := r.Addr.Addr().As16()
	if t.Hash(id) != r.Hash {
		t.area.Store64(id, hashOffset, 0)
		t.area.Store64(id, addrOffset, binary.LittleEndian.Uint64(a[:8]))
		t.area.Store64(id, addrOffset+8, binary.LittleEndian.Uint64(a[8:]))
	}
	// port and weight share a word.
	t.area.Store32(id, portOffset, uint32(r.Addr.Port())|uint32(r.Weight)<<16)
	t.area.Store32(id, serviceOffset, r.Service)
	t.area.Store32(id, orderOffset, r.Order)
	// upper and lower do, and state, outside and last weight.
	t.area.Store64(id, upperOffset, uint64(r.Upper)|uint64(r.Lower)<<32)
	t.area.Store32(id, stateOffset, uint32(r.State)|uint32(r.Outside)<<8|uint32(r.LastWeight)<<16)
	t.area.Store64(id, hashOffset, r.Hash)
}

// Free makes the id nobody's.
func (t *Table) Free(id uint32) {
	t.area.Store64(id, hashOffset, 0)
	t.area.Store32(id, stateOffset, uint32(Free))
}

// Hash returns the identity of backend id, 0 if it is free.
func (t *Table) Hash(id uint32) uint64 { return t.area.Load64(id, hashOffset) }

// Each yields the used records, by batch lookups. Addresses are unmapped: IPv4
// where the map has ::ffff:a.b.c.d.
func Each(m *ebpf.Map, yield func(id uint32, r Record)) error {
	return batch.Each(m, func(id uint32, b *bpf.LBBackend) error {
		if b.Hash == 0 {
			return nil
		}
		yield(id, Record{
			Hash:   b.Hash,
			Addr:   netip.AddrPortFrom(netip.AddrFrom16(b.Addr).Unmap(), b.Port),
			Weight: b.Weight, LastWeight: b.LastWeight,
			Service: b.Service,
			Order:   b.Order,
			State:   State(b.State),
			Outside: lb.Pools(b.Outside),
			Upper:   b.Upper, Lower: b.Lower,
		})
		return nil
	})
}

// IDs is the map backend_ids. One goroutine writes.
type IDs struct {
	Map *ebpf.Map
	// Later, if it is not nil, collects what is written until its Flush.
	Later *Later
}

// Later collects elements of the map.
type Later = batch.Later[uint64, uint32]

// Put enters ids for hashes. On an error some of them may be there.
func (i IDs) Put(hashes []uint64, ids []uint32) error {
	if len(hashes) == 0 {
		return nil
	}
	if i.Later != nil {
		for n := range hashes {
			if err := i.Later.Put(i.Map, hashes[n], ids[n]); err != nil {
				return fmt.Errorf("write to map %s: %w", i.Map, err)
			}
		}
		return nil
	}
	if _, err := i.Map.BatchUpdate(hashes, ids, nil); err != nil {
		return fmt.Errorf("write %d entries to map %s: %w", len(hashes), i.Map, err)
	}
	return nil
}

// Has reports whether the hash is there, what Later collects left out.
func (i IDs) Has(hash uint64) (bool, error) {
	var id uint32
	err := i.Map.Lookup(hash, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read map %s: %w", i.Map, err)
	}
	return true, nil
}

// Delete removes the hash, which may be absent.
func (i IDs) Delete(hash uint64) error {
	if err := i.Later.Delete(i.Map, hash); err != nil {
		return fmt.Errorf("delete from map %s: %w", i.Map, err)
	}
	return nil
}
