// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// Later collects what is to be written to a hash that nobody reads yet, and writes it
// with a system call for thousands of elements, beside its caller. What the kernel
// refuses is an error of Flush. nil collects nothing: what is put is written. Not safe
// for concurrent use.
type Later[K, V any] struct {
	m      *ebpf.Map
	keys   []K
	values []V
	// writing is the batch before, under way; err what came of those.
	writing sync.WaitGroup
	err     error
}

// NewLater begins to collect for an empty map.
func NewLater[K, V any]() *Later[K, V] { return &Later[K, V]{} }

// flushed is how many elements a system call writes.
const flushed = 4096

// Put writes an element, now or later.
func (l *Later[K, V]) Put(m *ebpf.Map, k K, v V) error {
	if l == nil {
		return m.Put(&k, &v)
	}
	l.m = m
	l.keys, l.values = append(l.keys, k), append(l.values, v)
	if len(l.keys) == flushed {
		l.write()
	}
	return nil
}

// Delete removes an element, which may be absent.
func (l *Later[K, V]) Delete(m *ebpf.Map, k K) error {
	if l != nil { // it may be among those that were collected
		if err := l.Flush(); err != nil {
			return err
		}
	}
	if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// write begins to write what was collected, after what is being written.
func (l *Later[K, V]) write() {
	l.writing.Wait()
	if l.err != nil || len(l.keys) == 0 {
		return
	}
	m, keys, values := l.m, l.keys, l.values
	l.keys, l.values = make([]K, 0, flushed), make([]V, 0, flushed)
	l.writing.Go(func() {
		if _, err := m.BatchUpdate(keys, values, nil); err != nil {
			l.err = fmt.Errorf("write %d entries to map %s: %w", len(keys), m, err)
		}
	})
}

// Flush writes what was collected. On an error, which stays, some of it is there.
func (l *Later[K, V]) Flush() error {
	if l == nil {
		return nil
	}
	l.write()
	l.writing.Wait()
	return l.err
}
