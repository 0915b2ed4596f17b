// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

func newServicesCommand(e *env) *cobra.Command {
	var flags readFlags
	var list listFlags
	cmd := &cobra.Command{
		Use:   "services",
		Short: "List the services that the kernel forwards",
		Long: `List the services that the kernel forwards, from its maps alone. ACTIVE and
INACTIVE are connections as IPVS counts them, over all backends, those that are
draining included. OPTIONS are what is not as it is by default, in the words of
the services file. Frontends beyond the second are counted as +N; -o wide shows
them all, and the traffic.

-o ipvsadm prints what ipvsadm -L -n would, and takes its options. waggle counts
over all frontends of a service, ipvsadm has a service for each: the numbers
stand with the first, and "-" with the others. Backends that have left their
service are not listed; what they carry is still in the service's row of --stats
and --rate. Unhealthy backends have weight 0. --rate is the mean of the time
between two readings (--interval), where IPVS prints an average that fades over
some ten seconds. Notes on stderr say which services and backends are meant.`,
		Example: `  waggle services
  waggle services -o wide
  waggle services -o json | jq -r '.items[] | select(.backends == 0) | .name'
  waggle services -o ipvsadm --stats --exact
  waggle services -o ipvsadm -t 203.0.113.10:80`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.format == ipvsadmFormat {
				request, err := list.request(cmd)
				if err != nil {
					return usage(cmd, err)
				}
				return e.listAsTool(cmd.Context(), flags.pinPath, request)
			}
			if err := list.foreign(cmd); err != nil {
				return usage(cmd, err)
			}
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
	flags.registerWithTool(cmd)
	list.register(cmd)
	return cmd
}
