// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

func newServicesCommand(e *env) *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "services",
		Short: "List the services that the kernel forwards",
		Long: `List the services that the kernel forwards, from its maps alone. ACTIVE and
INACTIVE are connections as IPVS counts them, over all backends, those that are
draining included. Frontends beyond the second are counted as +N; -o wide shows
them all, and the traffic.`,
		Example: `  waggle services
  waggle services -o wide
  waggle services -o json | jq -r '.items[] | select(.backends == 0) | .name'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			snap, c, err := e.readAll(flags.pinPath)
			if err != nil {
				return err
			}
			if snap.Len() == 0 {
				e.note("no services at %s", flags.pinPath)
			}
			return cli.Write(e.stdout, flags.format, cli.NewServiceList(snap, c))
		},
	}
	flags.register(cmd)
	return cmd
}
