// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
)

func newFlowsCommand(e *env) *cobra.Command {
	var flags readFlags
	var service serviceFlag
	var limit limitFlag
	var engines bool
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List the connections that the kernel translates",
		Long: `List the connections that the kernel translates, from its flow table alone, with
IPVS's names of the states. IDLE is the time since the last packet of either
direction, EXPIRES the time until the entry ends if no further packet comes.
SOURCE (-o wide) is what the backend sees as the client: the client, another port
of it where its own is taken at the backend, or, masqueraded, this machine. The
table changes while it is read: a connection that comes or goes meanwhile may be
missing.

-o ipvsadm prints what ipvsadm -L -n -c would, sorted: the clients that affinity
keeps are among the connections, with port 0. waggle follows no states of SCTP:
they are NONE there.`,
		Example: `  waggle flows
  waggle flows --service web --limit 20 -o wide
  waggle flows -o json | jq -r '.items[] | select(.state == "ESTABLISHED") | .client'
  waggle flows -o ipvsadm`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := limit.check(cmd); err != nil {
				return err
			}
			if flags.format == ipvsadmFormat {
				return e.listConnections(cmd.Context(), flags.pinPath, service, int(limit), engines)
			}
			if engines {
				return usage(cmd, errors.New("--persistent-conn is an option of ipvsadm: write -o ipvsadm too"))
			}
			return e.listFlows(cmd.Context(), &flags, service, int(limit))
		},
	}
	flags.registerWithTool(cmd)
	service.register(e, cmd, &flags.pinPath)
	limit.register(cmd, "flows")
	cmd.Flags().BoolVar(&engines, "persistent-conn", false, "with -o ipvsadm: add the columns of persistence engines, which are always empty")
	return cmd
}

func (e *env) listFlows(ctx context.Context, flags *readFlags, service serviceFlag, limit int) error {
	var flows []dataplane.Flow
	truncated := false
	err := e.reading(flags.pinPath, func(r reader) (err error) {
		match := func(f dataplane.Flow) bool { return service.match(f.Service) }
		flows, truncated, err = readFlows(ctx, r, flags.pinPath, match, limit)
		return err
	})
	if err != nil {
		return err
	}
	if truncated {
		e.note("there are more flows: --limit stopped at %d", limit)
	}
	return cli.Write(e.stdout, flags.format, cli.NewFlowList(flows, truncated))
}
