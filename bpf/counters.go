// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf"
)

// MostBackends returns for how many ids of backends the map stats can have room,
// which has an element for each of them and each possible CPU: what the kernel
// compiles compares an index with a signed number of 32 bits.
func MostBackends() (uint32, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count possible CPUs: %w", err)
	}
	return uint32(math.MaxInt32 / cpus), nil
}

// SizeStats gives the map stats what the programs take it to have: for each
// possible CPU as many elements as the map load has.
func SizeStats(spec *ebpf.CollectionSpec) error {
	most, err := MostBackends()
	if err != nil {
		return err
	}
	ids, cpus := spec.Maps["load"].MaxEntries, uint32(ebpf.MustPossibleCPU())
	if ids > most {
		return fmt.Errorf("make map stats for %d backends: on %d CPUs it has room for %d: lower --backends-max", ids, cpus, most)
	}
	if err := spec.Variables["stats_ids"].Set(ids); err != nil {
		return fmt.Errorf("tell the programs how large map stats is: %w", err)
	}
	spec.Maps["stats"].MaxEntries = ids * cpus
	return nil
}
