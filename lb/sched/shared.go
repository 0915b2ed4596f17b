// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"runtime"
	"sync"
	"weak"

	"github.com/waggle-lb/waggle/lb"
)

// tables are those of mh that are in use somewhere in the process: services
// with the same backends share one, here and in the kernel.
var tables = struct {
	sync.Mutex
	byContent map[tableKey]weak.Pointer[mhTable]
}{byContent: map[tableKey]weak.Pointer[mhTable]{}}

// tableKey is a hash of all that a table depends on.
type tableKey [sha256.Size]byte

// sharedTable returns the table of these backends and turns.
func sharedTable(list []lb.Backend, turns []uint8) *mhTable {
	key := keyOf(list, turns)
	if t := lookUp(key, nil); t != nil {
		return t
	}
	t := new(mhTable)
	fillTable(t, list, turns)
	return lookUp(key, t)
}

// lookUp returns the table of a key, which becomes fresh if there is none.
func lookUp(key tableKey, fresh *mhTable) *mhTable {
	tables.Lock()
	defer tables.Unlock()
	if t := tables.byContent[key].Value(); t != nil || fresh == nil {
		return t
	}
	tables.byContent[key] = weak.Make(fresh)
	runtime.AddCleanup(fresh, forget, key)
	return fresh
}

// forget drops a key, unless it has got another table since.
func forget(key tableKey) {
	tables.Lock()
	defer tables.Unlock()
	if tables.byContent[key].Value() == nil {
		delete(tables.byContent, key)
	}
}

func keyOf(list []lb.Backend, turns []uint8) (key tableKey) {
	h := sha256.New()
	for i := range list {
		writeRow(h, &list[i], turns[i])
	}
	h.Sum(key[:0])
	return key
}

func writeRow(h hash.Hash, b *lb.Backend, turns uint8) {
	var row [19]byte
	addr := b.Addr.Addr().As16()
	copy(row[:], addr[:])
	binary.BigEndian.PutUint16(row[16:], b.Addr.Port())
	row[18] = turns
	h.Write(row[:])
}
