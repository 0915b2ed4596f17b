// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
)

// defaultPinPath is where the maps are pinned unless --pin-path says another
// place.
const defaultPinPath = "/sys/fs/bpf/waggle"

// reader reads what the kernel holds at one pin path; nothing needs a daemon.
type reader interface {
	Read() (*lb.Snapshot, error)
	Counters() (dataplane.Counters, error)
	Recount(ctx context.Context) (dataplane.Recount, error)
	Flows(yield func(dataplane.Flow) error) error
	Clients(yield func(dataplane.Client) error) error
	Status() (dataplane.Status, error)
	Close() error
}

// env is what the verbs know of the world outside; tests replace it.
type env struct {
	stdout, stderr io.Writer
	// tty says that stderr is a terminal: progress is welcome.
	tty bool
	// now and wait are the clock: wait returns early with ctx's error.
	now  func() time.Time
	wait func(ctx context.Context, d time.Duration) error

	// kubeProxy says that waggle was called by this name.
	kubeProxy bool
	// runDir is where daemons have their sockets.
	runDir string
	// open opens the pins of a pin path for reading; the error is
	// dataplane.ErrNotRunning if there are none.
	open func(pinPath string) (reader, error)
	// cleanup removes everything of a pin path and names it.
	cleanup func(pinPath string) (removed []string, err error)
	// leftovers finds what kube-proxy left here, where snap is served.
	leftovers func(snap *lb.Snapshot) (*takeover.Found, error)
	// remove removes them.
	remove func(*takeover.Found) error
	// reasons are the drop reasons in the order of their numbers.
	reasons func() []string
	// build describes the binary, kernel the running kernel's release.
	build  func() (*debug.BuildInfo, bool)
	kernel func() (string, error)
}

// runDir is where daemons have their sockets and locks.
const runDir = "/run/waggle"

// newEnv is the real world.
func newEnv() *env {
	return &env{
		stdout:    os.Stdout,
		stderr:    os.Stderr,
		tty:       isTerminal(os.Stderr),
		now:       time.Now,
		wait:      wait,
		runDir:    runDir,
		open:      func(pinPath string) (reader, error) { return openReader(runDir, pinPath) },
		cleanup:   func(pinPath string) ([]string, error) { return cleanupBoth(runDir, pinPath) },
		leftovers: func(snap *lb.Snapshot) (*takeover.Found, error) { return takeover.Look(snap, false) },
		remove:    (*takeover.Found).Remove,
		reasons:   ebpf.Reasons,
		build:     buildInfo,
		kernel:    kernelRelease,
	}
}

// buildInfo is what Go recorded, with the version that the linker was given.
func buildInfo() (*debug.BuildInfo, bool) {
	info, ok := debug.ReadBuildInfo()
	if ok && version != "" {
		info.Main.Version = version
	}
	return info, ok
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// note writes a line for people to stderr.
func (e *env) note(format string, args ...any) {
	fmt.Fprintf(e.stderr, format+"\n", args...)
}
