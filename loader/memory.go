// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Memory returns how many bytes of memory this process may have, maps included:
// the machine's, or the least that its control groups allow, of version 2 and of
// version 1.
func Memory() (uint64, error) { return memoryOf("/") }

// memoryOf reads what is below root, for tests.
func memoryOf(root string) (uint64, error) {
	least, err := memTotal(path.Join(root, "proc/meminfo"))
	if err != nil {
		return 0, err
	}
	groups, err := controlGroups(root)
	if err != nil {
		return 0, err
	}
	for _, g := range groups {
		limit, err := g.limit()
		if err != nil {
			return 0, err
		}
		least = min(least, limit)
	}
	return least, nil
}

func memTotal(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read how much memory there is: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseUint(f[1], 10, 54)
			if err == nil {
				return n << 10, nil
			}
		}
	}
	return 0, fmt.Errorf("read how much memory there is: %s has no MemTotal in kB", file)
}

// controlGroup is one that this process is in, with all above it.
type controlGroup struct {
	mount string // of the hierarchy
	below string // the group, from there
	file  string // that has the limit
}

// limit returns the least of a group and of those above it, as far as this
// process sees them.
func (g controlGroup) limit() (uint64, error) {
	least := ^uint64(0)
	for dir := path.Join("/", g.below); ; dir = path.Dir(dir) {
		data, err := os.ReadFile(path.Join(g.mount, dir, g.file))
		switch text := strings.TrimSpace(string(data)); {
		case errors.Is(err, fs.ErrNotExist): // the root has no limit
		case err != nil:
			return 0, fmt.Errorf("read the memory limit of a control group: %w", err)
		case text == "max":
		default:
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the memory limit of a control group: %s: %w", path.Join(g.mount, dir, g.file), err)
			}
			least = min(least, n)
		}
		if dir == "/" {
			return least, nil
		}
	}
}

// controlGroups returns those that limit this process's memory.
func controlGroups(root string) (out []controlGroup, err error) {
	data, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without them
	}
	if err != nil {
		return nil, fmt.Errorf("read the control groups: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		// hierarchy:controllers:path; version 2 has the hierarchy 0 and no controllers
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		kind, option, file := "cgroup", "memory", "memory.limit_in_bytes"
		if f[0] == "0" && f[1] == "" {
			kind, option, file = "cgroup2", "", "memory.max"
		} else if !slices.Contains(strings.Split(f[1], ","), "memory") {
			continue
		}
		mount, top, err := findMount(path.Join(root, "proc/self/mountinfo"), kind, option)
		if err != nil {
			return nil, err
		}
		if mount == "" {
			continue
		}
		// what is mounted may be a part of the hierarchy: a container's
		below := "/"
		if rest, ok := strings.CutPrefix(f[2], strings.TrimSuffix(top, "/")); ok && !strings.HasPrefix(f[2], "/..") {
			below = rest
		}
		out = append(out, controlGroup{path.Join(root, mount), below, file})
	}
	return out, nil
}

// findMount returns where a file system of a kind is mounted that has an option,
// and what of it; empty if nowhere. What is above this process's namespace of control
// groups ("/..", cgroup_namespaces(7)) is not meant: a container has the machine's
// mounted beside its own, to attach programs there.
func findMount(file, kind, option string) (mount, top string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("read the mounts: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		// id parent device top mount options fields... - kind source super-options
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != kind || strings.HasPrefix(left[3], "/..") {
			continue
		}
		if option == "" || slices.Contains(strings.Split(right[2], ","), option) {
			return left[4], left[3], nil
		}
	}
	return "", "", s.Err()
}
