// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

func newStatsCommand(e *env) *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show totals, and drops by reason",
		Long: `Show totals over all services since the pins were made, and how many packets were
refused or dropped, by reason and with what each reason means. Reasons that never
occurred are left out of the table; -o wide shows all of them.`,
		Example: `  waggle stats
  waggle stats -o wide
  waggle stats -o json | jq '.drops[] | select(.packets > 0)'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			snap, c, err := e.readAll(flags.pinPath)
			if err != nil {
				return err
			}
			return cli.Write(e.stdout, flags.format, cli.NewStats(snap, c, e.reasons()))
		},
	}
	flags.register(cmd)
	return cmd
}
