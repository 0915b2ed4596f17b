// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
)

// registerSizes registers the flags that say how many entries maps have.
func registerSizes(cmd *cobra.Command, s *ebpf.Sizes) {
	for _, c := range []struct {
		flag  string
		value *uint32
		what  string
	}{
		{"flows-min", &s.Flows, "entries that the flow table has at first; a flow has 2, a masqueraded one 4"},
		{"flows-max", &s.FlowsMax, "entries that the flow table may grow to have"},
		{"half-open-max", &s.HalfOpen, "half-open flows, of which half as many make room for each other; a power of 2"},
		{"affinity-max", &s.Affinity, "clients that services with affinity remember"},
		{"direct-max", &s.Direct, "connections past the VIPs, to backends themselves, that are remembered"},
		{"fragments-max", &s.Fragments, "fragmented datagrams on their way at a time"},
		{"held-fragments-max", &s.Held, "fragments that wait for their first"},
	} {
		cmd.Flags().Uint32Var(c.value, c.flag, 0, c.what+"; 0: by memory")
	}
}

// registerLimits registers the flags that say how far configuration maps may grow.
func registerLimits(cmd *cobra.Command, l *ebpf.Limits) {
	for _, c := range []struct {
		name  string
		value *uint32
		most  uint32
		what  string
	}{
		{"services", &l.Services, ebpf.DefaultLimits.Services, "services, each family of one counted"},
		{"backends", &l.Backends, ebpf.DefaultLimits.Backends, "backends of all services, and those that left but have connections"},
		{"vips", &l.VIPs, ebpf.DefaultLimits.VIPs, "frontends and their addresses"},
		{"slots", &l.Slots, ebpf.DefaultLimits.Slots, "words of 8 bytes of what schedulers compile"},
	} {
		cmd.Flags().Uint32Var(c.value, c.name+"-max", c.most, "how far the map of "+c.what+" may grow")
	}
}
