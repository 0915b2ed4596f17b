// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
)

func newFlowsCommand(e *env) *cobra.Command {
	var flags readFlags
	var service serviceFlag
	var limit int
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List the connections that the kernel translates",
		Long: `List the connections that the kernel translates, from its flow table alone, with
IPVS's names of the states. IDLE is the time since the last packet of either
direction, EXPIRES the time until the entry ends if no further packet comes.
SOURCE (-o wide) is what the backend sees as the client: the client, another port
of it where its own is taken at the backend, or, masqueraded, this machine. The
table changes while it is read: a connection that comes or goes meanwhile may be
missing.`,
		Example: `  waggle flows
  waggle flows --service web --limit 20 -o wide
  waggle flows -o json | jq -r '.items[] | select(.state == "ESTABLISHED") | .client'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage(cmd, fmt.Errorf("--limit %d: write 0 for all flows, or how many", limit))
			}
			flows, truncated, err := e.readFlows(cmd.Context(), flags.pinPath, service, limit)
			if err != nil {
				return err
			}
			if truncated {
				e.note("there are more flows: --limit stopped at %d", limit)
			}
			return cli.Write(e.stdout, flags.format, cli.NewFlowList(flows, truncated))
		},
	}
	flags.register(cmd)
	service.register(e, cmd, &flags.pinPath)
	cmd.Flags().IntVar(&limit, "limit", 0, "stop after this many flows; 0 is all")
	return cmd
}

// errEnough ends a walk of the flow table early.
var errEnough = errors.New("limit reached")

// readFlows collects the flows of a service, at most limit unless it is 0.
func (e *env) readFlows(ctx context.Context, pinPath string, service serviceFlag, limit int) (flows []dataplane.Flow, truncated bool, err error) {
	err = e.reading(pinPath, func(r reader) error {
		err := r.Flows(func(f dataplane.Flow) error {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case !service.match(f.Service):
				return nil
			case limit > 0 && len(flows) == limit:
				return errEnough
			}
			flows = append(flows, f)
			return nil
		})
		if truncated = errors.Is(err, errEnough); truncated || err == nil {
			return nil
		}
		return fmt.Errorf("read flows at %s: %w", pinPath, err)
	})
	return flows, truncated, err
}
