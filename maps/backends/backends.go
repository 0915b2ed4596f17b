// SPDX-License-Identifier: Apache-2.0

// Package backends handles the array of backends and the chains that lead from a
// backend's identity to its place in that array.
package backends

import (
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
	portOffset    = uint32(unsafe.Offsetof(bpf.LBBackend{}.Port))
	serviceOffset = uint32(unsafe.Offsetof(bpf.LBBackend{}.Service))
	orderOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.Order))
	stateOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.State))
	upperOffset   = uint32(unsafe.Offsetof(bpf.LBBackend{}.Upper))
	nextOffset    = uint32(unsafe.Offsetof(bpf.LBBackend{}.Next))
)

// Table is the map backends, and backend_ids, which leads from a hash to the id
// that has it: bpf/ids.h says how. One goroutine writes.
type Table struct {
	// Later, if it is not nil, collects what is entered until its Flush, before which it is
	// not found. No program reads the maps until then.
	Later *batch.Beside[Entry]

	area, first *mmap.Area
	records     []bpf.LBBackend // area, for what nobody looks at
	heads       []uint64        // and first
	factor      uint64
}

// Open maps the memory of the two, which have equally many elements. factor is the
// variable ids_factor of the programs that read them.
func Open(m, ids *ebpf.Map, factor *ebpf.Variable) (*Table, error) {
	t := &Table{}
	if err := factor.Get(&t.factor); err != nil {
		return nil, fmt.Errorf("read the factor of %s: %w", ids, err)
	}
	area, err := mmap.Open(m)
	if err != nil {
		return nil, err
	}
	first, err := mmap.Open(ids)
	if err != nil {
		return nil, errors.Join(err, area.Close())
	}
	t.area, t.first, t.records, t.heads = area, first, mmap.Slice[bpf.LBBackend](area), mmap.Slice[uint64](first)
	return t, nil
}

// Close unmaps the memory.
func (t *Table) Close() error {
	t.records, t.heads = nil, nil
	return errors.Join(t.area.Close(), t.first.Close())
}

// Len returns the number of elements; 0 is never a backend.
func (t *Table) Len() uint32 { return t.area.Len() }

// Write writes a whole record, its hash last, and makes it found by that: until
// then nobody takes the id for the backend. For a record that has its hash already
// it edits in place.
func (t *Table) Write(id uint32, r Record) {
	if before := t.Hash(id); before != r.Hash {
		if before != 0 {
			t.Leave(id)
		}
		b := &t.records[id]
		b.Addr, b.Port, b.Weight, b.LastWeight = r.Addr.Addr().As16(), r.Addr.Port(), r.Weight, r.LastWeight
		b.Service, b.Order, b.State, b.Outside, b.Upper, b.Lower = r.Service, r.Order, uint8(r.State), uint8(r.Outside), r.Upper, r.Lower
		t.Enter(id, r.Hash)
		return
	}
	// port and weight share a word.
	t.area.Store32(id, portOffset, uint32(r.Addr.Port())|uint32(r.Weight)<<16)
	t.area.Store32(id, serviceOffset, r.Service)
	t.area.Store32(id, orderOffset, r.Order)
	// upper and lower do, and state, outside and last weight.
	t.area.Store64(id, upperOffset, uint64(r.Upper)|uint64(r.Lower)<<32)
	t.area.Store32(id, stateOffset, uint32(r.State)|uint32(r.Outside)<<8|uint32(r.LastWeight)<<16)
}

// Free makes the id nobody's.
func (t *Table) Free(id uint32) {
	if t.Hash(id) != 0 {
		t.Leave(id)
	}
	t.area.Store32(id, stateOffset, uint32(Free))
}

// CopyFrom makes the table, which is new, say what a smaller one says.
func (t *Table) CopyFrom(from *Table) {
	t.area.CopyFrom(from.area)
	later := t.NewLater()
	for id := range from.Len() {
		if hash := t.records[id].Hash; hash != 0 {
			later.Put(Entry{id, t.place(hash)})
		}
	}
	later.Flush()
}

// place is where a hash's chain begins.
func (t *Table) place(hash uint64) uint32 {
	return uint32(hash * t.factor >> 32 * uint64(t.first.Len()) >> 32)
}

// Enter gives id, which has none, its hash, by which it is found from then on.
func (t *Table) Enter(id uint32, hash uint64) {
	at := t.place(hash)
	if t.Later != nil {
		t.records[id].Hash = hash
		t.Later.Put(Entry{id, at})
		return
	}
	t.area.Store32(id, nextOffset, t.first.Load32(at, 0))
	t.area.Store64(id, hashOffset, hash)
	t.first.Store32(at, 0, id)
}

// Entry is an id that is to be found in the chain that begins at a place.
type Entry struct{ id, at uint32 }

// NewLater begins to collect for a table that no program reads.
func (t *Table) NewLater() *batch.Beside[Entry] {
	return batch.NewBeside(func(list []Entry) {
		for _, e := range list { // in no order for others, so that misses of the cache overlap
			t.records[e.id].Next = uint32(t.heads[e.at])
			t.heads[e.at] = uint64(e.id)
		}
	})
}

// Leave takes the hash from id. Whoever is looking at it begins anew: its next one
// stays as it is.
func (t *Table) Leave(id uint32) {
	next := t.area.Load32(id, nextOffset)
	switch at, before := t.seek(t.Hash(id), func(at uint32) bool { return at == id }); {
	case at != id: // it was never entered
	case before == 0:
		t.first.Store32(t.place(t.Hash(id)), 0, next)
	default:
		t.area.Store32(before, nextOffset, next)
	}
	t.area.Store64(id, hashOffset, 0)
}

// Find returns the id that has a hash; 0: nobody has it.
func (t *Table) Find(hash uint64) uint32 {
	id, _ := t.seek(hash, func(id uint32) bool { return t.Hash(id) == hash })
	return id
}

// seek returns the first id in a hash's chain that is the one, and the one before
// it; 0: there is none.
func (t *Table) seek(hash uint64, is func(id uint32) bool) (id, before uint32) {
	for id = t.first.Load32(t.place(hash), 0); id != 0 && !is(id); id = t.area.Load32(id, nextOffset) {
		before = id
	}
	return id, before
}

// Hash returns the identity of backend id, 0 if it is free.
func (t *Table) Hash(id uint32) uint64 { return t.area.Load64(id, hashOffset) }

// Put makes the record of id what b says, its hash included (0: it is nobody's): for
// who fills maps by hand, and knows what the programs read.
func Put(m, ids *ebpf.Map, factor *ebpf.Variable, id uint32, b bpf.LBBackend) error {
	t, err := Open(m, ids, factor)
	if err != nil {
		return err
	}
	if t.Hash(id) != 0 {
		t.Leave(id)
	}
	hash := b.Hash
	b.Hash, b.Next = 0, 0
	if err := m.Put(id, b); err != nil {
		return errors.Join(fmt.Errorf("write backend %d to map %s: %w", id, m, err), t.Close())
	}
	if hash != 0 {
		t.Enter(id, hash)
	}
	return t.Close()
}

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
