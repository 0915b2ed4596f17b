// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func newCleanupCommand(e *env) *cobra.Command {
	var (
		pinPath   string
		stay      bool
		kubeProxy leftoverFlags
	)
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove waggle's programs, links and maps from the kernel",
		Long: `Remove everything that waggle keeps in the kernel for one pin path: the programs
are detached from all devices and the maps are freed, and in this network namespace
the virtual services, tables and device of "--dataplane ipvs"; each is named. Forwarding
stops, and connections through the services end. It refuses while a daemon runs
there. A second time it finds nothing, and that is fine.

With --kube-proxy nothing of waggle's is removed, but what kube-proxy left: its
nftables tables, its chains among those of iptables and the rules that lead there, its
virtual servers, ipsets and device. A daemon may run. It refuses, and says how many,
while connections go on through them.`,
		Example: `  waggle cleanup
  waggle cleanup --kube-proxy --dry-run
  waggle cleanup --pin-path /sys/fs/bpf/other`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := kubeProxy.validate(); err != nil {
				return usage(cmd, err)
			}
			if kubeProxy.kubeProxy {
				return e.cleanupKubeProxy(pinPath, kubeProxy)
			}
			removed, err := e.cleanup(pinPath)
			for _, r := range removed {
				fmt.Fprintf(e.stdout, "removed %s\n", r)
			}
			if err != nil {
				return err
			}
			if socket := socketOf(e.runDir, pinPath); os.Remove(socket) == nil { // of a daemon that was killed
				removed = append(removed, socket)
				fmt.Fprintf(e.stdout, "removed %s\n", socket)
			}
			if len(removed) == 0 {
				fmt.Fprintf(e.stdout, "nothing to remove at %s\n", pinPath)
			}
			for stay && e.wait(cmd.Context(), time.Hour) == nil {
				// until the context ends, which is no error here
			}
			return nil
		},
	}
	registerPinPath(cmd, &pinPath)
	kubeProxy.register(cmd)
	cmd.Flags().BoolVar(&stay, "stay", false, "when all is removed, wait for SIGTERM: for a pod on each node, which would be started again otherwise")
	return cmd
}
