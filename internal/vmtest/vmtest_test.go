// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const madison = `linux-image-6.12.9+deb12-amd64 | 6.12.9-1~bpo12+1 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages
linux-image-6.12.117+deb12-amd64 | 6.12.117-1~deb12u1 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
linux-image-6.12.100+deb12-amd64 | 6.12.100-1~deb12u1 | http://deb.debian.org/debian bookworm/main amd64 Packages
`

func TestTheNewestKernelIsTaken(t *testing.T) {
	got, err := lines["6.12"].choose(parseMadison(madison), nil)
	want := Kernel{Package: "linux-image-6.12.117+deb12-amd64", Version: "6.12.117-1~deb12u1", Release: "6.12.117+deb12-amd64"}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Kernel{})); d != "" || err != nil {
		t.Errorf("(-want +got): %v\n%s", err, d)
	}
}

func TestAKernelBelowTheFloorIsRefused(t *testing.T) {
	tests := []struct{ line, version, word string }{
		{"6.1", "6.1.186-1", "older than 6.1.187"},
		{"6.12", "6.12.104-1~deb12u1", "older than 6.12.105"},
		{"6.12", "", "apt offers no package"},
	}
	for _, tc := range tests {
		var all []Kernel
		if tc.version != "" {
			all = []Kernel{{Package: "linux-image-x", Version: tc.version}}
		}
		if _, err := lines[tc.line].choose(all, nil); err == nil || !strings.Contains(err.Error(), tc.word) {
			t.Errorf("%s %s: %v, want %q", tc.line, tc.version, err, tc.word)
		}
	}
	if _, err := lines["6.1"].choose([]Kernel{{Version: "6.1.187-1"}}, nil); err != nil {
		t.Errorf("the floor itself: %v", err)
	}
	if _, err := Fetch(t.Context(), "5.10"); err == nil {
		t.Error("a line of kernels that the lab does not know is taken")
	}
}

func TestOnlyKernelsOfTheLineCount(t *testing.T) {
	for name, want := range map[string]bool{
		"linux-image-6.12.117+deb12-amd64":       true,
		"linux-image-6.12.117+deb12-cloud-amd64": false,
		"linux-image-6.12.117+deb12-amd64-dbg":   false,
		"linux-image-6.12.117+deb12-rt-amd64":    false,
	} {
		if got := lines["6.12"].name.MatchString(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestModulesAreLoadedAfterWhatTheyNeed(t *testing.T) {
	list := `kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/drivers/virtio/virtio-pci.ko:
kernel/fs/other.ko: kernel/fs/9p/9p.ko.xz
`
	got, err := loadOrder(list, []string{"virtio_pci", "9p", "built_in"})
	want := []string{"kernel/drivers/virtio/virtio-pci.ko", "kernel/fs/netfs/netfs.ko.xz", "kernel/net/9p/9pnet.ko.xz", "kernel/fs/9p/9p.ko.xz"}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("(-want +got): %v\n%s", err, d)
	}
	if _, err := loadOrder(list, []string{"nothing"}); err == nil {
		t.Error("no module is no error")
	}
}

func TestWordsSurviveTheShell(t *testing.T) {
	words := []string{"a b", "it's", "$HOME `x` \"y\" \\", "", "*"}
	script := "printf '%s\\n'"
	for _, w := range words {
		script += " " + quote(w)
	}
	out, err := exec.Command("sh", "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Join(words, "\n")+"\n", string(out)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestVerdictsAreCounted(t *testing.T) {
	out := "=== RUN   TestA\n    --- PASS: TestA/x (0.00s)\n    --- SKIP: TestA/y (0.00s)\n--- FAIL: TestA (0.01s)\n--- PASS: TestB (0.00s)\nsay --- PASS: no\n"
	if got, want := CountVerdicts(out), (Verdicts{Passed: 2, Failed: 1, Skipped: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestAConsoleErrorKeepsItsCause(t *testing.T) {
	cause := errors.New("cause")
	err := error(&ConsoleError{cause, "last words"})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "last words") {
		t.Errorf("got %v", err)
	}
}

func TestArchiveEntriesAreAligned(t *testing.T) {
	var a archive
	a.add("a", 0o100644, []byte("xyz"))
	b := a.bytes()
	second := bytes.LastIndex(b, []byte("070701"))
	if second%4 != 0 || len(b)%4 != 0 || !bytes.Contains(b, []byte("TRAILER!!!\x00")) {
		t.Errorf("the second entry is at %d of %d", second, len(b))
	}
}

func TestAWorkspaceOutlivesItsProcessOnlyUntilTheNext(t *testing.T) {
	mine, err := Workspace()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(mine)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(filepath.Dir(mine), fmt.Sprintf("vm-%d-left", dead.Process.Pid))
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	next, err := Workspace()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(next)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		os.RemoveAll(left)
		t.Errorf("%s is still there: %v", left, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("that of a process that runs is gone: %v", err)
	}
}

// Threads that run at once cannot count in one row.
func TestAGuestThatCountsHasOneThread(t *testing.T) {
	for counts, want := range map[bool]string{false: "-accel tcg,thread=multi,tb-size=512", true: "-accel tcg,thread=single,tb-size=512 -icount shift=0,sleep=off"} {
		g := Guest{CountInstructions: counts}
		got := strings.Join(g.arguments("/job"), " ")
		if !strings.Contains(got, want+" -fsdev") || strings.Contains(got, "-icount") != counts {
			t.Errorf("CountInstructions %t: %s", counts, got)
		}
	}
}
