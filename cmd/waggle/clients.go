// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/lb"
)

func newClientsCommand(e *env) *cobra.Command {
	var flags readFlags
	var service serviceFlag
	var limit limitFlag
	cmd := &cobra.Command{
		Use:   "clients",
		Short: "List the clients that affinity keeps at a backend",
		Long: `List the clients, or networks of clients, whose new connections all go to one
backend because their service has affinity, from the kernel's maps alone. EXPIRES
is the time until that ends if no new connection comes; it does not end before
the connections do, but with services of an API server. ASSURED (-o wide) says
that the backend has answered.
IPVS lists them among its connections: so does ` + "`waggle flows -o ipvsadm`" + `.`,
		Example: `  waggle clients
  waggle clients --service web --limit 20
  waggle clients -o json | jq -r '.items[] | select(.backend == "192.0.2.2:8080") | .client'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := limit.check(cmd); err != nil {
				return err
			}
			return e.listClients(cmd.Context(), &flags, service, int(limit))
		},
	}
	flags.register(cmd)
	service.register(e, cmd, &flags.pinPath)
	limit.register(cmd, "clients")
	return cmd
}

func (e *env) listClients(ctx context.Context, flags *readFlags, service serviceFlag, limit int) error {
	var snap *lb.Snapshot
	var clients []dataplane.Client
	truncated := false
	err := e.reading(flags.pinPath, func(r reader) (err error) {
		if snap, err = readServices(r, flags.pinPath); err != nil {
			return err
		}
		clients, truncated, err = readClients(ctx, r, flags.pinPath, snap, service, limit)
		return err
	})
	if err != nil {
		return err
	}
	if truncated {
		e.note("there are more clients: --limit stopped at %d", limit)
	}
	return cli.Write(e.stdout, flags.format, cli.NewClientList(snap, clients, truncated))
}
