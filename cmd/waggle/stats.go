// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

func newStatsCommand(e *env) *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show totals, and drops by reason",
		Long: `Show totals over all services since the pins were made, whether the counts of
connections are right, and how many packets were refused or dropped, by reason and
with what each reason means. Reasons that never occurred are left out of the table;
-o wide shows all of them.

The flows and sockets of each backend are counted, and compared with what its counts
of active and inactive connections say. A difference is a bug: please report it.`,
		Example: `  waggle stats
  waggle stats -o wide
  waggle stats -o json | jq '.counts.difference'
  waggle stats -o json | jq '.drops[] | select(.packets > 0)'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := e.readStats(cmd.Context(), flags.pinPath)
			if err != nil {
				return err
			}
			return cli.Write(e.stdout, flags.format, doc)
		},
	}
	flags.register(cmd)
	return cmd
}

func (e *env) readStats(ctx context.Context, pinPath string) (doc *cli.Stats, err error) {
	err = e.reading(pinPath, func(r reader) error {
		doc, err = e.statsOf(ctx, r, pinPath)
		return err
	})
	return doc, err
}

func (e *env) statsOf(ctx context.Context, r reader, pinPath string) (*cli.Stats, error) {
	snap, c, err := readCounters(r, pinPath)
	if err != nil {
		return nil, err
	}
	counts, err := r.Recount(ctx)
	if err != nil {
		return nil, fmt.Errorf("recount flows at %s: %w", pinPath, err)
	}
	return cli.NewStats(snap, c, counts, e.reasons()), nil
}
