// SPDX-License-Identifier: Apache-2.0

// Package sysctl sets what the kernel has in files of numbers: sysctls, parameters of
// modules, and the like.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const root = "/proc/sys/"

// Setting is a number that a file is to have.
type Setting struct {
	// Path of the file. A sysctl of networks is that of the network namespace of who
	// opens it.
	Path  string
	Value int
	// AtLeast leaves a greater number as it is.
	AtLeast bool
}

// Sysctl is the setting of a sysctl that is written with slashes:
// "net/ipv4/ip_forward".
func Sysctl(name string, value int) Setting { return Setting{Path: root + name, Value: value} }

// String returns "net.ipv4.ip_forward=1", or the path in the place of the name.
func (s Setting) String() string { return s.name() + "=" + strconv.Itoa(s.Value) }

func (s Setting) name() string {
	if name, ok := strings.CutPrefix(s.Path, root); ok {
		return strings.ReplaceAll(name, "/", ".")
	}
	return s.Path
}

// Set makes it so, and reports whether something had to change: so it needs no
// privileges where all is well. The error is fs.ErrNotExist for what this kernel does
// not have, and fs.ErrPermission, or of a read-only file system, for who may not.
func (s Setting) Set() (changed bool, err error) {
	text, err := os.ReadFile(s.Path)
	if err != nil {
		return false, s.explain(err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return false, fmt.Errorf("%s: not a number: %w", s.name(), err)
	}
	if now == s.Value || s.AtLeast && now > s.Value {
		return false, nil
	}
	if err := Write(s.Path, strconv.Itoa(s.Value)); err != nil {
		return false, s.explain(err)
	}
	return true, nil
}

// host is where a container may have the machine's sysctls of networks, below the same
// path: its own are read-only, as runtimes have it.
const host = "/host"

// Write writes to a file that is there. One that is read-only in a container is written
// to below /host, if that has it.
func Write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // never makes one
	if errors.Is(err, unix.EROFS) {
		if other, e := os.OpenFile(host+path, os.O_WRONLY, 0); e == nil {
			f, err = other, nil
		}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// explain says what to do.
func (s Setting) explain(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // the path is in the name
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(s.Path, "nf_conntrack"):
		return fmt.Errorf("set %s: %w: this kernel has it once the module nf_conntrack is loaded", s, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("set %s: %w: this kernel does not have it", s, err)
	}
	return fmt.Errorf("set %s: %w: set it before, or with more privileges", s, err)
}

// CPUs returns how many CPUs of the machine are online, whichever of them the process
// may use.
func CPUs() (int, error) {
	const dir = "/sys/devices/system/cpu/"
	text, err := os.ReadFile(filepath.Join(dir, "online"))
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	return countCPUs(strings.TrimSpace(string(text)))
}

// countCPUs reads the kernel's form of a set: "0-3,5".
func countCPUs(set string) (n int, err error) {
	for part := range strings.SplitSeq(set, ",") {
		first, last, more := strings.Cut(part, "-")
		if !more {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(err, err2); err != nil || a > b {
			return 0, fmt.Errorf("count CPUs: %q is no list of them", set)
		}
		n += int(b-a) + 1
	}
	return n, nil
}
