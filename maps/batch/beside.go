// SPDX-License-Identifier: Apache-2.0

package batch

import "sync"

// Beside has work done on thousands of things at once, beside its caller and in
// their order. Not safe for concurrent use.
type Beside[T any] struct {
	work    func([]T)
	list    []T
	spare   []T // was worked on, and is used again
	working sync.WaitGroup
}

// NewBeside begins to collect for work, which is never called twice at a time.
func NewBeside[T any](work func([]T)) *Beside[T] { return &Beside[T]{work: work} }

// Put has work done on v, by the next Flush at the latest.
func (b *Beside[T]) Put(v T) {
	if b.list = append(b.list, v); len(b.list) == flushed {
		b.begin()
	}
}

func (b *Beside[T]) begin() {
	b.working.Wait()
	list := b.list
	b.list, b.spare = b.spare[:0], list
	if cap(b.list) == 0 {
		b.list = make([]T, 0, flushed)
	}
	b.working.Go(func() { b.work(list) })
}

// Flush waits until all is done.
func (b *Beside[T]) Flush() {
	b.begin()
	b.working.Wait()
}
