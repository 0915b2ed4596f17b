// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
)

func newExportCommand(e *env) *cobra.Command {
	var pinPath string
	var rules, sorted bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print the services that the kernel forwards as rules of ipvsadm",
		Long: `Print the services that the kernel forwards as rules: the text that ipvsadm -R
and waggle run --services read. Each frontend is a service there, named by its
address. Restored, the lists of backends are the same, in the same order, and
thresholds are there. What the rules cannot say is listed on stderr.`,
		Example: `  waggle export --ipvsadm >services.rules
  waggle export --ipvsadm | ipvsadm -R
  diff <(waggle export --ipvsadm --sorted) <(ipvsadm -S -n)`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !rules {
				return usage(cmd, errors.New("no form is named: write --ipvsadm"))
			}
			return e.export(pinPath, sorted)
		},
	}
	registerPinPath(cmd, &pinPath)
	cmd.Flags().BoolVar(&rules, "ipvsadm", false, "print rules of ipvsadm; needed, as other forms may come")
	cmd.Flags().BoolVar(&sorted, "sorted", false, "print what ipvsadm -S -n would: backends by address, without thresholds")
	return cmd
}

// export prints the rules to stdout and what they leave out to stderr.
func (e *env) export(pinPath string, sorted bool) error {
	var snap *lb.Snapshot
	err := e.reading(pinPath, func(r reader) (err error) {
		snap, err = readServices(r, pinPath)
		return err
	})
	if err != nil {
		return err
	}
	if snap.Len() == 0 {
		e.note("no services at %s", pinPath)
	}
	notes, err := ipvsadm.Save(e.stdout, snap, sorted)
	for _, n := range notes {
		e.note("%s", n)
	}
	return err
}
