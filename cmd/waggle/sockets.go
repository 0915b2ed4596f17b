// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cgroup"
)

// socketFlags say whose sockets are led to backends before there are packets.
type socketFlags struct {
	lb     string // a word of socketWords
	cgroup string
	binds  string // a word of bindWords
}

// socketWords are the values of --socket-lb.
var socketWords = []string{"all", "host", "off"}

// bindWords are the values of --nodeport-bind.
var bindWords = []string{"warn", "refuse"}

func (f *socketFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.lb, "socket-lb", "all", "whose connections are led to a backend when they are made, so that their packets need nothing: all processes' (TCP of containers, everything of the machine itself), host for the machine itself alone, or off")
	s.StringVar(&f.cgroup, "cgroup", "", "control group of version 2, a directory, of the processes that --socket-lb is about; empty: the root, that is all")
	s.StringVar(&f.binds, "nodeport-bind", "warn", "what becomes of a process of this machine that binds a node port: warn says so in the log, refuse gives it EADDRINUSE too; with --socket-lb off nothing")
	complete(cmd, "nodeport-bind", cobra.FixedCompletions(bindWords, cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "socket-lb", cobra.FixedCompletions(socketWords, cobra.ShellCompDirectiveNoFileComp))
}

func (f *socketFlags) validate() error {
	if !slices.Contains(socketWords, f.lb) {
		return fmt.Errorf("--socket-lb %q: write %s", f.lb, strings.Join(socketWords, ", "))
	}
	if !slices.Contains(bindWords, f.binds) {
		return fmt.Errorf("--nodeport-bind %q: write %s", f.binds, strings.Join(bindWords, " or "))
	}
	if f.lb == "off" && f.cgroup != "" {
		return fmt.Errorf("--cgroup is for --socket-lb all or host: leave it out")
	}
	return nil
}

// root returns the control group, "" if no sockets are led.
func (f *socketFlags) root() (string, error) {
	if f.lb == "off" || f.cgroup != "" {
		return f.cgroup, nil
	}
	root, err := cgroup.Root()
	if err != nil {
		return "", fmt.Errorf("--socket-lb %s: %w: with --cgroup, or write --socket-lb off", f.lb, err)
	}
	return root, nil
}
