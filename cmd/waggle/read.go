// SPDX-License-Identifier: Apache-2.0

package main

import (
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
		if snap, err = r.Read(); err != nil {
			return fmt.Errorf("read services at %s: %w", pinPath, err)
		}
		if c, err = r.Counters(); err != nil {
			return fmt.Errorf("read counters at %s: %w", pinPath, err)
		}
		return nil
	})
	return snap, c, err
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
