// SPDX-License-Identifier: Apache-2.0

// Package batch walks whole maps by batch lookups, which work with read-only
// descriptors and cost one system call for thousands of elements.
package batch

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Each calls yield for every element of a hash or array map, until yield
// returns an error, which Each returns. The pointer is valid during the call.
// Elements that are inserted or deleted meanwhile may be seen or not; others
// are seen once.
func Each[K, V any](m *ebpf.Map, yield func(key K, value *V) error) error {
	return eachFrom(int(min(m.MaxEntries(), 4096)), m, yield)
}

// eachFrom is Each with room for size elements at first.
func eachFrom[K, V any](size int, m *ebpf.Map, yield func(key K, value *V) error) error {
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, unix.ENOSPC) {
			// A bucket of the hash holds more than fits: same place, more room.
			size *= 2
			keys, values = make([]K, size), make([]V, size)
			continue
		}
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read map %s: %w", m, err)
		}
		for i := range n {
			if err := yield(keys[i], &values[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// EachPerCPU calls yield for every element of a per-CPU array, with one value for
// each possible CPU. The slice is valid during the call.
func EachPerCPU[V any](m *ebpf.Map, yield func(key uint32, values []V)) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count possible CPUs: %w", err)
	}
	size := int(min(m.MaxEntries(), 512))
	keys, values := make([]uint32, size), make([]V, size*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read map %s: %w", m, err)
		}
		for i := range n {
			yield(keys[i], values[i*cpus:(i+1)*cpus])
		}
		if end {
			return nil
		}
	}
}
