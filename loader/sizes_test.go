// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// These are the rows of docs/limits.md.
func TestSizesByMemory(t *testing.T) {
	for _, c := range []struct {
		memory uint64
		said   Sizes
		want   Sizes
	}{
		{128 * mib, Sizes{}, Sizes{Flows: 1 << 15, FlowsMax: 1 << 15, HalfOpen: 1 << 13, Direct: 1 << 12, Affinity: 1 << 13, Fragments: 1 << 10, Held: 1 << 8}},
		{256 * mib, Sizes{}, Sizes{Flows: 1 << 16, FlowsMax: 1 << 16, HalfOpen: 1 << 14, Direct: 1 << 12, Affinity: 1 << 13, Fragments: 1 << 10, Held: 1 << 8}},
		{1 << 30, Sizes{}, Sizes{Flows: 1 << 17, FlowsMax: 1 << 18, HalfOpen: 1 << 16, Direct: 1 << 14, Affinity: 1 << 15, Fragments: 1 << 11, Held: 1 << 8}},
		{8 << 30, Sizes{}, Sizes{Flows: 1 << 17, FlowsMax: 1 << 21, HalfOpen: 1 << 19, Direct: 1 << 17, Affinity: 1 << 18, Fragments: 1 << 14, Held: 1 << 11}},
		{1 << 40, Sizes{}, Sizes{Flows: 1 << 17, FlowsMax: 1 << 23, HalfOpen: 1 << 20, Direct: 1 << 18, Affinity: 1 << 20, Fragments: 1 << 15, Held: 1 << 12}},
		{1 << 30, Sizes{Flows: 1 << 20}, Sizes{Flows: 1 << 20, FlowsMax: 1 << 20, HalfOpen: 1 << 18, Direct: 1 << 14, Affinity: 1 << 15, Fragments: 1 << 11, Held: 1 << 8}},
		{8 << 30, Sizes{FlowsMax: 5000, Affinity: 300}, Sizes{Flows: 5000, FlowsMax: 5000, HalfOpen: 1 << 10, Direct: 1 << 17, Affinity: 300, Fragments: 1 << 14, Held: 1 << 11}},
	} {
		if d := cmp.Diff(c.want, c.said.For(c.memory)); d != "" {
			t.Errorf("%d MiB, %+v (-want +got):\n%s", c.memory/mib, c.said, d)
		}
	}
}

func TestSizesThatCannotBeAreRefusedByTheirFlag(t *testing.T) {
	for want, s := range map[string]Sizes{
		"--flows-min 255: write 256 to":                             {Flows: 255},
		"--flows-max 67108865: write 256 to 67108864":               {FlowsMax: 1<<26 + 1},
		"--half-open-max 3000: write a power of 2: 2048 or 4096":    {HalfOpen: 3000},
		"--affinity-max 1: write":                                   {Affinity: 1},
		"--direct-max 1: write":                                     {Direct: 1},
		"--fragments-max 1: write":                                  {Fragments: 1},
		"--held-fragments-max 1: write":                             {Held: 1},
		"--flows-min 1024 is more than --flows-max 512: the flow t": {Flows: 1024, FlowsMax: 512},
		"": {Flows: 256, FlowsMax: 1 << 26, HalfOpen: 256, Affinity: 1 << 26},
	} {
		err := s.Check()
		if want == "" && err == nil {
			continue
		}
		if err == nil || want == "" || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", s, err, want)
		}
	}
}

// machine is a file system that says how much memory there is.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	meminfo = "MemTotal:        1048576 kB\nMemFree:          123456 kB\n"
	mounts2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	mounts1 = "30 22 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 22 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)

func TestMemoryIsTheLeastOfMachineAndControlGroups(t *testing.T) {
	for name, c := range map[string]struct {
		want  uint64
		files map[string]string
	}{
		"no control groups": {1 << 30, map[string]string{}},
		"version 2, no limit": {1 << 30, map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/a/b/memory.max": "max\n"}},
		"version 2, its own": {100 << 20, map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/a/b/memory.max": "104857600\n", "sys/fs/cgroup/a/memory.max": "max\n"}},
		"version 2, a parent's": {50 << 20, map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/a/b/memory.max": "104857600\n", "sys/fs/cgroup/a/memory.max": "52428800\n"}},
		"version 2, a container's root": {70 << 20, map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/memory.max": "73400320\n"}},
		"version 2, a part is mounted": {70 << 20, map[string]string{
			"proc/self/cgroup": "0::/pod/x/y\n", "proc/self/mountinfo": "29 22 0:26 /pod/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "sys/fs/cgroup/y/memory.max": "73400320\n"}},
		"version 2, the machine's beside a container's": {70 << 20, map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "28 22 0:26 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup2 rw\n" + mounts2, "sys/fs/cgroup/memory.max": "73400320\n",
			"host/sys/fs/cgroup/cgroup.procs": ""}},
		"version 1": {60 << 20, map[string]string{
			"proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n", "proc/self/mountinfo": mounts1, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "62914560\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}},
	} {
		c.files["proc/meminfo"] = meminfo
		got, err := memoryOf(machine(t, c.files))
		if err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
	}
	if got, err := Memory(); err != nil || got < 1<<20 {
		t.Errorf("this machine: %d bytes, %v", got, err)
	}
}

func TestAMapThatTheMemoryDoesNotHoldIsNamedWithItsFlag(t *testing.T) {
	err := sizeError("flows", 1<<26, unix.ENOMEM)
	const want = "make map flows of 67108864 entries: cannot allocate memory: the memory, or the control group's memory.max, does not hold it: raise that, or lower --flows-min"
	if !errors.Is(err, unix.ENOMEM) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
