// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"crypto/sha256"
	"encoding/binary"
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

func keyOf(list []lb.Backend, turns []uint8) tableKey {
	content := make([]byte, 0, len(list)*19)
	for i := range list {
		addr := list[i].Addr.Addr().As16()
		content = append(content, addr[:]...)
		content = binary.BigEndian.AppendUint16(content, list[i].Addr.Port())
		content = append(content, turns[i])
	}
	return sha256.Sum256(content)
}
