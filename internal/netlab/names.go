// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where named namespaces are, a convention of iproute2 (ip-netns(8)).
const Dir = "/run/netns"

// A namespace is named waggle-PREFIX-PID-NUMBER-ROLE, PID being its owner's.
var (
	cgroupPattern = regexp.MustCompile(`^waggle-[a-zA-Z0-9-]+-(\d+)-\d+-\d+$`) // the last is its number in the lab
	namePattern   = regexp.MustCompile(`^waggle-[a-zA-Z0-9-]+-(\d+)-\d+-[a-zA-Z0-9]+$`)
	prefixPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$`)
	rolePattern   = regexp.MustCompile(`^[a-zA-Z0-9]+$`)
)

// newDirector finds the first free number for a lab of this process and prefix
// and takes it by making the director's namespace.
func newDirector(prefix string) (*Lab, error) {
	for n := 0; ; n++ {
		name := fmt.Sprintf("waggle-%s-%d-%d", prefix, os.Getpid(), n)
		director, err := newNamespace(name + "-director")
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &Lab{Director: director, name: name}, nil
	}
}

// RemoveStale removes the namespaces of labs whose process is dead. A process
// of another PID namespace looks dead: labs of containers that share /run/netns
// are not to be run at the same time.
func RemoveStale() error {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("netlab: look for stale namespaces: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		match := namePattern.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		pid, err := strconv.Atoi(match[1])
		if err != nil || Alive(pid) {
			continue
		}
		if err := removeName(entry.Name()); err != nil {
			errs = append(errs, fmt.Errorf("netlab: remove stale namespace: %w", err))
		}
	}
	return errors.Join(append(errs, removeStaleCgroups())...)
}

// Alive reports whether a process of this id exists (kill(2): signal 0 only
// checks).
func Alive(pid int) bool {
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// removeName takes the name away; the kernel removes the namespace when nothing
// uses it any more. A name that is gone already, or was never mounted on
// (its maker died in between), is no error.
func removeName(name string) error {
	path := filepath.Join(Dir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeNamed makes a namespace and its name. The calling goroutine's thread is
// in the new namespace afterwards, so it must be locked and thrown away.
func makeNamed(name string) (netns.NsHandle, error) {
	handle, err := netns.NewNamed(name)
	switch {
	case err == nil:
		return handle, nil
	case errors.Is(err, fs.ErrExist):
		return netns.None(), fmt.Errorf("netlab: make namespace %s: %w", name, err)
	case errors.Is(err, fs.ErrPermission):
		return netns.None(), fmt.Errorf("netlab: make namespace %s: %w: run as root, with CAP_SYS_ADMIN", name, err)
	}
	return netns.None(), errors.Join(fmt.Errorf("netlab: make namespace %s: %w", name, err), removeName(name))
}
