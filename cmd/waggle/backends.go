// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

func newBackendsCommand(e *env) *cobra.Command {
	var flags readFlags
	var service serviceFlag
	cmd := &cobra.Command{
		Use:   "backends",
		Short: "List the backends, with their connections and traffic",
		Long: `List the backends of each service in the order in which the schedulers see them,
from the kernel's maps alone. STATE is active; quiesced, with weight 0, or
unhealthy: it gets no new connections; draining or removed, with weight "-": it is
no backend of the service any more, and has connections still, or only counters.
One that is overloaded too has reached its upper threshold, and not been below the
lower one since; THRESHOLDS (-o wide) are upper/lower.`,
		Example: `  waggle backends
  waggle backends --service web -o wide
  waggle backends -o json | jq -r '.items[] | select(.state == "draining") | .address'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			snap, c, err := e.readAll(flags.pinPath)
			if err != nil {
				return err
			}
			list := cli.NewBackendList(snap, c, service.match)
			known := service == "" || len(list.Items) > 0
			for svc := range snap.All() {
				known = known || service.match(svc.ID)
			}
			if !known {
				return &remediedError{
					fmt.Errorf("no service %q at %s", string(service), flags.pinPath),
					"`waggle services` lists them",
				}
			}
			return cli.Write(e.stdout, flags.format, list)
		},
	}
	flags.register(cmd)
	service.register(e, cmd, &flags.pinPath)
	return cmd
}
