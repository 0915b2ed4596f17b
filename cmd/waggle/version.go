// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/cli"
)

// version is set by the linker (Makefile); "" is what Go knows of the module.
var version string

func newVersionCommand(e *env) *cobra.Command {
	format := cli.Table
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of waggle, Go and the kernel",
		Long: `Show the version and the commit that this binary was built from, the Go that
built it, and the kernel that it runs on.`,
		Example: `  waggle version
  waggle version -o json | jq -r .commit`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := e.version()
			if err != nil {
				return err
			}
			return cli.Write(e.stdout, format, cli.NewVersion(v))
		},
	}
	cmd.Flags().VarP(&format, "output", "o", "output format: table, wide, json or yaml")
	complete(cmd, "output", cobra.FixedCompletions(cli.Formats(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (e *env) version() (cli.Build, error) {
	info, ok := e.build()
	if !ok {
		return cli.Build{}, errors.New("this binary has no build information: build it with Go's modules")
	}
	kernel, err := e.kernel()
	if err != nil {
		return cli.Build{}, err
	}
	v := cli.Build{
		Version: cmp.Or(info.Main.Version, "unknown"), Commit: "unknown", Go: info.GoVersion,
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Kernel: kernel,
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v, nil
}
