// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMountsOfBothVersions(t *testing.T) {
	const mountinfo = `30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu
40 23 0:27 /a /mnt/with\040space rw - cgroup2 none rw
`
	got, err := mountsOf(strings.NewReader(mountinfo))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/sys/fs/cgroup/unified", "/mnt/with space"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestBelow(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/\n": false, "0::/kubepods/pod1\n": true, "0::/../b\n": false, "3:cpu:/a\n0::/\n": false, "3:cpu:/\n0::/a\n": true, "3:cpu:/a\n": false, "": false,
	} {
		if below(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func TestRootIsOfVersion2(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Errorf("%s: error %v, file system %#x", root, err, fs.Type)
	}
}
