// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

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

// Size makes what programs and maps take each other's sizes to be agree: of the map
// stats, and of the bitmaps.
func Size(spec *ebpf.CollectionSpec) error { return errors.Join(sizeStats(spec), sizeBits(spec)) }

// sizeStats gives the map stats for each possible CPU as many elements as load has.
func sizeStats(spec *ebpf.CollectionSpec) error {
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

// Bitmaps are those that have one size.
var Bitmaps = []string{"vip_bits", "peer_bits", "backend_bits", "masq_bits"}

// bitsPlaces are the bits for each place of a VIP or a backend: with one in sixteen set, few
// of the packets to others are looked up, whatever the number of services.
const bitsPlaces = 16

// RoomForBits gives the bitmaps the words that they need for the places of VIPs and of
// backends that their maps have.
func RoomForBits(spec *ebpf.CollectionSpec) {
	words := uint64(max(spec.Maps["vips"].MaxEntries, spec.Maps["backends"].MaxEntries)) * bitsPlaces / 64
	for _, name := range Bitmaps {
		spec.Maps[name].MaxEntries = uint32(max(uint64(1)<<bits.Len64(words-1), uint64(LBLimitsBITS_WORDS)))
	}
}

// BitsShift returns how many bits of a mark do not say which word of so many it is.
func BitsShift(words uint32) int { return 32 - bits.Len32(words-1) }

func sizeBits(spec *ebpf.CollectionSpec) error {
	words := spec.Maps[Bitmaps[0]].MaxEntries
	for _, name := range Bitmaps {
		if n := spec.Maps[name].MaxEntries; n != words || n&(n-1) != 0 {
			return fmt.Errorf("make map %s of %d words: all bitmaps have the same power of 2, as %s has %d", name, n, Bitmaps[0], words)
		}
	}
	if err := spec.Variables["bits_shift"].Set(uint32(BitsShift(words))); err != nil {
		return fmt.Errorf("tell the programs how large the bitmaps are: %w", err)
	}
	return nil
}
