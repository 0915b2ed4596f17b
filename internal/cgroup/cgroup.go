// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds the hierarchy of control groups of version 2.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rootInode is that of a hierarchy's root. A directory that looks like one to a
// process in a control group namespace of its own has another.
const rootInode = 1

// Root returns the directory where the hierarchy of version 2 is mounted, alone or
// beside those of version 1: all processes of the machine are in it, those of
// containers too. Where the machine is a container itself, as kind's nodes are, that is
// the root of its control group namespace, if this process is not that container's own:
// if it is somewhere below.
func Root() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find control groups: %w", err)
	}
	defer f.Close()
	mounts, err := mountsOf(f)
	if err != nil {
		return "", fmt.Errorf("find control groups: %w", err)
	}
	if len(mounts) == 0 {
		return "", errors.New("control groups of version 2 are not mounted: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`")
	}
	for _, m := range mounts {
		var st unix.Stat_t
		if err := unix.Stat(m, &st); err == nil && st.Ino == rootInode {
			return m, nil
		}
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find control groups: %w", err)
	}
	if below(string(self)) {
		return mounts[0], nil
	}
	return "", fmt.Errorf("%s is this container's own control group, not the machine's: mount the machine's /sys/fs/cgroup, and name it", mounts[0])
}

// below reports whether a process is below the root of its control group namespace, by
// the text of cgroups(7), /proc/[pid]/cgroup.
func below(text string) bool {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path != "/" && !strings.HasPrefix(path, "/..") // .. is outside of it
		}
	}
	return false
}

// mountsOf reads where cgroup2 is mounted from the format of proc_pid_mountinfo(5).
func mountsOf(r io.Reader) (points []string, err error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		of, fs, ok := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(of); ok && strings.HasPrefix(fs, "cgroup2 ") && len(fields) > 4 {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points, s.Err()
}

// unescape are the characters that the kernel writes as numbers.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
