// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/lb"
)

// readFlags are the flags that all verbs that read share.
type readFlags struct {
	pinPath string
	format  cli.Format
}

func (f *readFlags) register(cmd *cobra.Command) {
	f.format = cli.Table
	registerPinPath(cmd, &f.pinPath)
	cmd.Flags().VarP(&f.format, "output", "o", "output format: table, wide, json or yaml")
	complete(cmd, "output", cobra.FixedCompletions(cli.Formats(), cobra.ShellCompDirectiveNoFileComp))
}

// registerWithTool is for verbs that also print as ipvsadm does.
func (f *readFlags) registerWithTool(cmd *cobra.Command) {
	f.format = cli.Table
	registerPinPath(cmd, &f.pinPath)
	cmd.Flags().VarP(toolFormat{&f.format}, "output", "o", "output format: table, wide, json, yaml or ipvsadm")
	names := append(cli.Formats(), string(ipvsadmFormat))
	complete(cmd, "output", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// ipvsadmFormat is the format of ipvsadm -L -n.
const ipvsadmFormat cli.Format = "ipvsadm"

// toolFormat is a format flag that takes ipvsadmFormat too.
type toolFormat struct{ *cli.Format }

func (f toolFormat) Set(s string) error {
	if s == string(ipvsadmFormat) {
		*f.Format = ipvsadmFormat
		return nil
	}
	if err := f.Format.Set(s); err != nil {
		return fmt.Errorf("%w, %s", err, ipvsadmFormat) // its text ends in a list
	}
	return nil
}

func registerPinPath(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "pin-path", defaultPinPath, "directory in a bpf file system that holds the pins")
}

// complete registers a flag's completion. The only errors are a flag that does
// not exist or has one already: mistakes of the program, not of its user.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// reading calls f with the pins opened and closes them.
func (e *env) reading(pinPath string, f func(reader) error) (err error) {
	r, err := e.open(pinPath)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("close pins at %s: %w", pinPath, cerr))
		}
	}()
	return f(r)
}

// readAll reads the services and the counters.
func (e *env) readAll(pinPath string) (snap *lb.Snapshot, c dataplane.Counters, err error) {
	err = e.reading(pinPath, func(r reader) error {
		snap, c, err = readCounters(r, pinPath)
		return err
	})
	return snap, c, err
}

func readServices(r reader, pinPath string) (*lb.Snapshot, error) {
	snap, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read services at %s: %w", pinPath, err)
	}
	return snap, nil
}

// errEnough ends a walk of a table early.
var errEnough = errors.New("limit reached")

// collect takes what a walk of a table yields, at most limit unless it is 0.
func collect[T any](ctx context.Context, walk func(func(T) error) error, match func(T) bool, limit int) (out []T, truncated bool, err error) {
	err = walk(func(v T) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !match(v):
			return nil
		case limit > 0 && len(out) == limit:
			return errEnough
		}
		out = append(out, v)
		return nil
	})
	if truncated = errors.Is(err, errEnough); truncated {
		err = nil
	}
	return out, truncated, err
}

// readFlows collects the flows that match.
func readFlows(ctx context.Context, r reader, pinPath string, match func(dataplane.Flow) bool, limit int) (flows []dataplane.Flow, truncated bool, err error) {
	flows, truncated, err = collect(ctx, r.Flows, match, limit)
	if err != nil {
		err = fmt.Errorf("read flows at %s: %w", pinPath, err)
	}
	return flows, truncated, err
}

// readClients collects the clients that the services of a snapshot keep. What
// they had before their affinity was changed, or theirs in a service that is
// gone, leads nowhere.
func readClients(ctx context.Context, r reader, pinPath string, snap *lb.Snapshot, service serviceFlag, limit int) (clients []dataplane.Client, truncated bool, err error) {
	match := func(c dataplane.Client) bool {
		svc := snap.Service(c.Service)
		if svc == nil || !svc.Affinity.Enabled() || !service.match(c.Service) {
			return false
		}
		net, err := c.Client.Prefix(int(svc.Affinity.Prefix))
		return err == nil && net.Addr() == c.Client
	}
	clients, truncated, err = collect(ctx, r.Clients, match, limit)
	if err != nil {
		err = fmt.Errorf("read clients at %s: %w", pinPath, err)
	}
	return clients, truncated, err
}

// limitFlag is --limit.
type limitFlag int

func (f *limitFlag) register(cmd *cobra.Command, what string) {
	cmd.Flags().IntVar((*int)(f), "limit", 0, "stop after this many "+what+"; 0 is all")
}

func (f limitFlag) check(cmd *cobra.Command) error {
	if f < 0 {
		return usage(cmd, fmt.Errorf("--limit %d: write 0 for all, or how many", f))
	}
	return nil
}

func readCounters(r reader, pinPath string) (snap *lb.Snapshot, c dataplane.Counters, err error) {
	if snap, err = readServices(r, pinPath); err != nil {
		return nil, c, err
	}
	if c, err = r.Counters(); err != nil {
		return nil, c, fmt.Errorf("read counters at %s: %w", pinPath, err)
	}
	return snap, c, nil
}

// serviceFlag is --service: a name (both families) or a name and a family,
// "web/ipv4". Empty matches all.
type serviceFlag string

func (f *serviceFlag) register(e *env, cmd *cobra.Command, pinPath *string) {
	cmd.Flags().StringVar((*string)(f), "service", "", "only this service: web, or of one family web/ipv4 (default all)")
	complete(cmd, "service", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		snap, _, err := e.readAll(*pinPath)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for svc := range snap.All() {
			names = append(names, svc.ID.Name)
		}
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	})
}

func (f serviceFlag) match(id lb.ServiceID) bool {
	return f == "" || string(f) == id.Name || string(f) == id.String()
}
