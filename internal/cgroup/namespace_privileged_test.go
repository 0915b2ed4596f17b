// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// helper, in the environment, has the test's binary print what Root returns.
const helper = "WAGGLE_TEST_CGROUP_ROOT"

func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	root, err := Root()
	fmt.Println(root, err)
}

// enter is a container's beginning: its own control group is the root of what it sees.
// The second argument is where below it the process goes.
const enter = `echo $$ > "$1/cgroup.procs"
exec unshare --cgroup --mount --propagation private sh -ec '
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo $$ > "/sys/fs/cgroup/$2/cgroup.procs"
exec "$3"' sh "$@"`

// A container that is a machine to others has the root of its own control groups; one
// that is alone there has none.
func TestRootOfAContainer(t *testing.T) {
	machine, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(machine, fmt.Sprintf("waggle-cgroup-test-%d", os.Getpid()))
	for _, dir := range []string{own, filepath.Join(own, "pod")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
	}
	for in, want := range map[string]string{
		".":   " /sys/fs/cgroup is this container's own control group, not the machine's: mount the machine's /sys/fs/cgroup, and name it",
		"pod": "/sys/fs/cgroup <nil>",
	} {
		cmd := exec.Command("sh", "-ec", enter, "sh", own, in, os.Args[0])
		cmd.Env = append(os.Environ(), helper+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSuffix(string(out), "\n") != want {
			t.Errorf("in %s: %v, got %q, want %q", in, err, out, want)
		}
	}
}
