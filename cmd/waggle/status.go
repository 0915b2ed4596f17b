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

func newStatusCommand(e *env) *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen how waggle is: paste it into a report",
		Long: `Show the versions, how and where programs are attached and why not elsewhere, what
the sources delivered and what the last write to the kernel did, whether the counts
of connections are right, what was dropped, and how full every map is.

Sources, writes and reasons come from the daemon, by a socket in /run/waggle. If
none runs, or it could not listen there, the rest is from the pins, and the devices
are those of the network namespace in which this is called. -o wide names all
devices, services and drops, where the table names the first ones.`,
		Example: `  waggle status
  waggle status -o wide
  waggle status -o json | jq '.maps[] | select(.used > .limit * 0.8)'
  waggle status -o json | jq -e '.daemon != null and .counts.difference == 0'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := e.readStatus(cmd.Context(), flags.pinPath)
			if err != nil {
				return err
			}
			return cli.Write(e.stdout, flags.format, doc)
		},
	}
	flags.register(cmd)
	return cmd
}

func (e *env) readStatus(ctx context.Context, pinPath string) (*cli.Status, error) {
	v, err := e.version()
	if err != nil {
		return nil, err
	}
	in := cli.StatusInput{
		Version: v, PinPath: pinPath,
		Stats: cli.NewStats(nil, dataplane.Counters{}, dataplane.Recount{}, nil),
	}
	agent, silence := e.askStatus(ctx, pinPath)
	err = e.reading(pinPath, func(r reader) (err error) {
		if in.Pins, err = r.Status(); err != nil {
			return fmt.Errorf("read the status at %s: %w", pinPath, err)
		}
		in.Stats, err = e.statsOf(ctx, r, pinPath)
		return err
	})
	if agent != nil && errors.Is(err, dataplane.ErrNotRunning) {
		e.note("what the maps hold is left out: nothing was written to %s yet, or pins are missing", pinPath)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if in.Agent = agent; agent == nil {
		in.Agent = cli.PinnedAgent(&in.Pins, silence.Error())
	}
	return cli.NewStatus(in), nil
}
