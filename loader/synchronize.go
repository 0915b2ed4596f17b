// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Synchronize waits until every program that ran when it was called has ended.
// The kernel does that before it returns from replacing a map in a map of maps,
// so that user space knows that nobody uses the old one any more (since Linux 5.0).
func Synchronize() (err error) {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return fmt.Errorf("wait for the programs: %w", err)
	}
	defer func() { err = errors.Join(err, outer.Close()) }()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("wait for the programs: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("wait for the programs: %w", err)
	}
	return nil
}
