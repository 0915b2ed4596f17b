// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"

	"github.com/cilium/ebpf"
)

// Copy enters all elements of one hash in another, which has room for them. Nobody else
// writes to either.
func Copy[K, V any](from, to *ebpf.Map) error {
	later := NewLater[K, V]()
	err := Each(from, func(k K, v *V) error { return later.Put(to, k, *v) })
	return errors.Join(err, later.Flush())
}
