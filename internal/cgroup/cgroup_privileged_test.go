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

// containedVariable makes the test binary say what Root returns.
const containedVariable = "WAGGLE_TEST_CONTAINED"

// TestRootInAContainer: a container has a control group of its own where others have
// the root, and the machine's where it was told to mount it, or not.
func TestRootInAContainer(t *testing.T) {
	if os.Getenv(containedVariable) != "" {
		root, err := Root()
		fmt.Printf("root %q, error %v\n", root, err)
		return
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, fmt.Sprintf("waggle-test-%d", os.Getpid()))
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(own); err != nil {
			t.Error(err)
		}
	})
	host := t.TempDir()
	for mounts, want := range map[string]string{
		fmt.Sprintf("mount --rbind %s %s && mount --bind %s %s", root, host, own, root): fmt.Sprintf("root %q, error <nil>", host),
		fmt.Sprintf("mount --bind %s %s", own, root):                                    "mount the machine's /sys/fs/cgroup",
	} {
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", mounts+` && exec "$0" -test.run '^TestRootInAContainer$'`, os.Args[0])
		cmd.Env = append(os.Environ(), containedVariable+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("after %s: %v\n%s\nwant %s", mounts, err, out, want)
		}
	}
}
