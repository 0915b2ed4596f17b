// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// change is something read of the API server, for the goroutine that has the store.
type change func(*Source)

// queue is between the watchers and that goroutine. Nobody waits at its entry.
type queue struct {
	wake chan struct{}

	mu      sync.Mutex
	waiting []change // guarded by mu
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) put(c change) {
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default: // it will be taken with what is there
	}
}

func (q *queue) take() []change {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting
	q.waiting = nil
	return all
}

// sink is where a Reflector puts objects: read at once, so that no object is kept,
// and queued.
type sink struct {
	queue *queue
	// set reads an object.
	set func(object any) func(*Store)
	// remove forgets one.
	remove func(*Store, types.NamespacedName)
	// keys are of all that the store has.
	keys func(*Store) []types.NamespacedName
	// listed is called after each full list.
	listed func(*Source)
}

// Add implements cache.ReflectorStore.
func (k *sink) Add(object any) error {
	apply := k.set(object)
	k.queue.put(func(s *Source) { apply(s.store) })
	return nil
}

// Update implements cache.ReflectorStore.
func (k *sink) Update(object any) error { return k.Add(object) }

// Delete implements cache.ReflectorStore.
func (k *sink) Delete(object any) error {
	m, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	key := keyOf(m)
	k.queue.put(func(s *Source) { k.remove(s.store, key) })
	return nil
}

// Replace implements cache.ReflectorStore: what is not in the list is gone.
func (k *sink) Replace(objects []any, _ string) error {
	there := make(map[types.NamespacedName]bool, len(objects))
	all := make([]func(*Store), 0, len(objects))
	for _, o := range objects {
		m, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		there[keyOf(m)] = true
		all = append(all, k.set(o))
	}
	k.queue.put(func(s *Source) {
		for _, key := range k.keys(s.store) {
			if !there[key] {
				k.remove(s.store, key)
			}
		}
		for _, apply := range all {
			apply(s.store)
		}
		k.listed(s)
	})
	return nil
}

// Resync implements cache.ReflectorStore.
func (k *sink) Resync() error { return nil }

// Transformer implements cache.TransformingStore, for the lists that a Reflector
// puts together itself.
func (k *sink) Transformer() cache.TransformFunc { return strip }
