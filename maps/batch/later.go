// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Later collects what is to be written to a hash that nobody reads yet, and Flush
// writes it with a system call for thousands of elements. nil collects nothing: what
// is put is written. Not safe for concurrent use.
type Later[K comparable, V any] struct{ values map[K]V }

// NewLater begins to collect for an empty map.
func NewLater[K comparable, V any]() *Later[K, V] { return &Later[K, V]{make(map[K]V)} }

// Put writes an element, now or later.
func (l *Later[K, V]) Put(m *ebpf.Map, k K, v V) error {
	if l == nil || l.values == nil {
		return m.Put(&k, &v)
	}
	l.values[k] = v
	return nil
}

// Delete removes an element, which may be absent.
func (l *Later[K, V]) Delete(m *ebpf.Map, k K) error {
	if l != nil && l.values != nil {
		delete(l.values, k)
		return nil
	}
	if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// flushed is how many elements a system call writes.
const flushed = 4096

// Flush writes what was collected; from then on what is put is written at once. On
// an error some of it is there.
func (l *Later[K, V]) Flush(m *ebpf.Map) error {
	keys, values := make([]K, 0, flushed), make([]V, 0, flushed)
	write := func() error {
		if len(keys) == 0 {
			return nil
		}
		if _, err := m.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("write %d entries to map %s: %w", len(keys), m, err)
		}
		keys, values = keys[:0], values[:0]
		return nil
	}
	for k, v := range l.values {
		if keys, values = append(keys, k), append(values, v); len(keys) < flushed {
			continue
		}
		if err := write(); err != nil {
			return err
		}
	}
	l.values = nil
	return write()
}
