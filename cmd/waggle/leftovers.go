// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ipvs"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

const leftoversFlag = "kube-proxy-leftovers"

func registerLeftovers(cmd *cobra.Command, mode *string) {
	cmd.Flags().StringVar(mode, leftoversFlag, string(takeover.Keep),
		"what becomes of kube-proxy's rules once everything is served: keep; remove, when their last connection has ended; force, at once")
	complete(cmd, leftoversFlag, cobra.FixedCompletions(takeover.Modes(), cobra.ShellCompDirectiveNoFileComp))
}

// watchLeftovers makes the task that takes over from kube-proxy.
func watchLeftovers(flags *runFlags, s *serving, leaving *handover, loop *control.Loop, log *slog.Logger) *takeover.Watch {
	return takeover.New(takeover.Options{
		Mode: takeover.Mode(flags.leftovers), Log: log, Applied: loop.Ready(), Behind: s.behind,
		Served: func() *lb.Snapshot { return loop.Status().Desired },
		Other:  func() bool { return s.former == ipvs.Name && leaving.leaves() },
	})
}

// leftoverFlags are those of `waggle cleanup` for what kube-proxy left.
type leftoverFlags struct{ kubeProxy, dryRun, force bool }

func (f *leftoverFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.BoolVar(&f.kubeProxy, "kube-proxy", false, "remove what kube-proxy left in this network namespace, and nothing of waggle's")
	s.BoolVar(&f.dryRun, "dry-run", false, "with --kube-proxy: only say what there is")
	s.BoolVar(&f.force, "force", false, "with --kube-proxy: also if connections need it, or if waggle serves nothing here")
}

func (f *leftoverFlags) validate() error {
	if !f.kubeProxy && (f.dryRun || f.force) {
		return errors.New("--dry-run and --force are for --kube-proxy: write that too, or leave them out")
	}
	return nil
}

// cleanupKubeProxy removes what kube-proxy left.
func (e *env) cleanupKubeProxy(pinPath string, flags leftoverFlags) error {
	snap, err := e.served(pinPath)
	serves := err == nil
	if err != nil && !errors.Is(err, dataplane.ErrNotRunning) {
		return err
	}
	found, err := e.leftovers(snap)
	if err != nil {
		return err
	}
	word := "removed"
	if flags.dryRun {
		word = "found"
	}
	list := func() {
		for _, item := range found.Items {
			fmt.Fprintf(e.stdout, "%s %s\n", word, item)
		}
		for _, item := range found.Kept {
			fmt.Fprintf(e.stdout, "kept %s\n", item)
		}
	}
	switch {
	case len(found.Items) == 0:
		list()
		fmt.Fprintln(e.stdout, "nothing of kube-proxy's to remove")
		return nil
	case flags.dryRun:
		list()
		fmt.Fprintf(e.stdout, "%d connections go on through it\n", found.Live)
		return nil
	case !serves && !flags.force:
		return fmt.Errorf("waggle serves nothing at %s, so no Service would be reached: start it first, or write --force", pinPath)
	case !flags.force:
		if err := found.Check(); err != nil {
			return fmt.Errorf("%w: wait, or have the daemon wait (waggle run --%s remove), or write --force", err, leftoversFlag)
		}
	}
	if err := e.remove(found); err != nil {
		return err
	}
	list()
	return nil
}

// served is what the pins say; the error is dataplane.ErrNotRunning without any.
func (e *env) served(pinPath string) (snap *lb.Snapshot, err error) {
	err = e.reading(pinPath, func(r reader) error {
		snap, err = r.Read()
		return err
	})
	return snap, err
}
