// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
)

const xdpFlag = "xdp"

func registerXDP(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, xdpFlag, "",
		"which devices send packets on in XDP, past the stack and its FORWARD rules: native, those whose driver has it; generic, all, more slowly; off; or auto: native, unless a probe or a rule about what is forwarded says why not; empty: auto with --services, off with an API server")
	complete(cmd, xdpFlag, cobra.FixedCompletions(ebpf.XDPModes, cobra.ShellCompDirectiveNoFileComp))
}

func checkXDP(mode string) error {
	if mode != "" && !slices.Contains(ebpf.XDPModes, mode) {
		return fmt.Errorf("--%s %q: write %s", xdpFlag, mode, strings.Join(ebpf.XDPModes, ", "))
	}
	return nil
}

// xdpMode is what was asked for, or what suits the source: other agents of a cluster's
// node filter what it forwards.
func (f *runFlags) xdpMode() ebpf.XDPMode {
	switch {
	case f.xdp != "":
		return ebpf.XDPMode(f.xdp)
	case f.services != "":
		return ebpf.XDPAuto
	}
	return ebpf.XDPOff
}
