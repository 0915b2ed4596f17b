// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"log/slog"

	"github.com/waggle-lb/waggle/loader"
)

// Sizes are how many entries the maps have that flows are in.
type Sizes = loader.Sizes

// sizesByMemory says what is not said, by the memory that there is.
func sizesByMemory(s Sizes, log *slog.Logger) (Sizes, error) {
	memory, err := loader.Memory()
	if err != nil {
		return s, err
	}
	s = s.For(memory)
	log.Info("sizes of maps, in entries", "memory_mib", memory>>20, "flows", s.Flows, "flows_max", s.FlowsMax, "half_open", s.HalfOpen,
		"affinity", s.Affinity, "direct", s.Direct, "fragments", s.Fragments, "held", s.Held)
	return s, nil
}
