// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// The groups of verbs in the help text.
const (
	groupRun   = "run"
	groupRead  = "read"
	groupOther = "other"
)

// newRootCommand makes the whole tree of verbs.
func newRootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "waggle",
		Short: "An eBPF L4 load balancer with the schedulers of IPVS",
		Long: `waggle forwards TCP and UDP connections to backends inside the kernel, by eBPF
programs, with the schedulers of IPVS. What it was told stays in the kernel: the
verbs that read need no running daemon.

Exit codes: 0 good, 1 the work failed, 2 called wrongly; diff has its own. Data
is written to stdout, notes, logs and errors to stderr.`,
		Example: `  waggle run --services services.yaml
  waggle services
  waggle flows --service web --limit 20`,
		Args:                       unknownVerb,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run and remove:"},
		&cobra.Group{ID: groupRead, Title: "Read from the kernel, daemon or no daemon:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	addVerbs(root, groupRun, newRunCommand(e), newDemoCommand(e), newCleanupCommand(e))
	addVerbs(root, groupRead, newServicesCommand(e), newBackendsCommand(e), newFlowsCommand(e), newClientsCommand(e), newStatsCommand(e), newStatusCommand(e), newDiffCommand(e), newExportCommand(e))
	addVerbs(root, groupOther, newVersionCommand(e))
	return root
}

func addVerbs(root *cobra.Command, group string, verbs ...*cobra.Command) {
	for _, v := range verbs {
		v.GroupID = group
		root.AddCommand(v)
	}
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, e *env, args []string) int {
	root := newRootCommand(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errDiffers):
		return exitDiffers
	}
	e.note("waggle: %v", err)
	if r := remedy(err); r != "" {
		e.note("  %s", r)
	}
	return exitCode(err)
}

// unknownVerb is met when no verb matched.
func unknownVerb(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown verb %q", args[0])
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))
	}
	return usage(root, err)
}

// noArgs is for verbs that take flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(cmd, fmt.Errorf("unexpected argument %q", args[0]))
}
