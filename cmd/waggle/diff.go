// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/control"
)

// desiredPath is what `waggle diff` asks the daemon for, by HTTP at its socket.
const desiredPath = "/desired"

// lookAgainAfter is how long a difference waits to be seen again: a change that
// is just being written is none.
const lookAgainAfter = 200 * time.Millisecond

func newDiffCommand(e *env) *cobra.Command {
	var flags readFlags
	var services, scheduler string
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Compare what is desired with what the kernel holds",
		Long: `Compare what the daemon's sources want with what the kernel holds, and print what
differs: services that are missing or extra, and of the others frontends, backends,
weights, scheduler, options and the order of backends. Nothing is printed if they
are equal. What differs is looked at twice, as it may just be being written.

With --services a file is compared instead, and no daemon is needed: it says what a
start with this file would change. The order of backends is then that of the lines.

Exit codes: 0 they are equal, 1 they differ, 2 it could not be told.`,
		Example: `  waggle diff
  waggle diff -o json | jq -r '.items[].service'
  waggle diff --services services.yaml && echo nothing to do`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := sched.Find(scheduler); err != nil {
				return usage(cmd, fmt.Errorf("--scheduler: %w", err))
			}
			desired := e.askDesired
			if services != "" {
				desired = func(context.Context, string) (*lb.Snapshot, error) { return parseFile(services, scheduler) }
			}
			doc, err := e.diff(cmd.Context(), flags.pinPath, desired)
			if err == nil {
				err = cli.Write(e.stdout, flags.format, doc)
			}
			switch {
			case err != nil:
				return &troubleError{err}
			case !doc.Empty():
				return errDiffers
			}
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&services, "services", "", "compare this file of services, not what the daemon wants")
	cmd.Flags().StringVar(&scheduler, "scheduler", defaultScheduler, "scheduler of services in YAML that name none, with --services")
	complete(cmd, "scheduler", cobra.FixedCompletions(sched.Names(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// diff compares, and again if something differs.
func (e *env) diff(ctx context.Context, pinPath string, desired func(context.Context, string) (*lb.Snapshot, error)) (doc *cli.Diff, err error) {
	for again := false; ; again = true {
		want, err := desired(ctx, pinPath)
		if err != nil {
			return nil, err
		}
		err = e.reading(pinPath, func(r reader) error {
			held, err := readServices(r, pinPath)
			doc = cli.NewDiff(want, held)
			return err
		})
		if err != nil || doc.Empty() || again {
			return doc, err
		}
		if err := e.wait(ctx, lookAgainAfter); err != nil {
			return nil, err
		}
	}
}

// desired is the daemon's answer. Only the same build understands it: services
// are as package lb has them.
type desired struct {
	Version, Commit string
	Services        []*lb.Service
}

func desiredOf(p cli.Process, s control.Status) (*desired, error) {
	if waiting := s.Waiting(); len(waiting) > 0 {
		return nil, fmt.Errorf("nothing is desired before all sources have delivered: waiting for %s", strings.Join(waiting, ", "))
	}
	if s.Desired == nil {
		return nil, errors.New("what the sources want is just being put together: ask again")
	}
	return &desired{p.Version, p.Commit, slices.Collect(s.Desired.All())}, nil
}

// askDesired asks the daemon of a pin path what its sources want.
func (e *env) askDesired(ctx context.Context, pinPath string) (*lb.Snapshot, error) {
	v, err := e.version()
	if err != nil {
		return nil, err
	}
	body, err := e.ask(ctx, pinPath, desiredPath)
	if errors.Is(err, errNoDaemon) {
		return nil, &remediedError{err, "without a daemon compare a file: waggle diff --services FILE"}
	}
	if err != nil {
		return nil, err
	}
	var d desired
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil || d.Version != v.Version || d.Commit != v.Commit {
		err = fmt.Errorf("the daemon is of version %s, commit %s, this binary of %s, %s", d.Version, d.Commit, v.Version, v.Commit)
		return nil, &remediedError{err, "call the daemon's own binary, or compare a file: waggle diff --services FILE"}
	}
	return lb.NewSnapshot(d.Services...)
}
