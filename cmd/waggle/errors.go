// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane"
)

// The exit codes, a documented interface.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	// Of `waggle diff`, as of diff(1).
	exitDiffers = 1
	exitTrouble = 2
)

// errDiffers says that a difference was found. It was printed: that is all.
var errDiffers = errors.New("the kernel is not as desired")

// troubleError keeps apart that something could not be told from what was told.
type troubleError struct{ err error }

func (e *troubleError) Error() string { return e.err.Error() }

func (e *troubleError) Unwrap() error { return e.err }

// usageError says that the command line is wrong.
type usageError struct {
	command string // as typed: "waggle run"
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

func usage(cmd *cobra.Command, err error) error {
	return &usageError{cmd.CommandPath(), err}
}

// remediedError carries the next step that its place of origin knows.
type remediedError struct {
	err  error
	next string
}

func (e *remediedError) Error() string { return e.err.Error() }

func (e *remediedError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if t := (*troubleError)(nil); errors.As(err, &t) {
		return exitTrouble
	}
	if u := (*usageError)(nil); errors.As(err, &u) {
		return exitUsage
	}
	return exitFailed
}

// remedy says what to do about err; "" if waggle does not know.
func remedy(err error) string {
	if r := (*remediedError)(nil); errors.As(err, &r) {
		return r.next
	}
	if u := (*usageError)(nil); errors.As(err, &u) {
		return fmt.Sprintf("see `%s --help`", u.command)
	}
	switch {
	case errors.Is(err, dataplane.ErrNotRunning):
		return "start one with `waggle run --services FILE`, or name its place with --pin-path DIR"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or as the owner of the pin path with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (docs/security.md)"
	}
	return ""
}
