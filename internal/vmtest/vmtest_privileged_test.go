// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func guest(t *testing.T) *Guest {
	t.Helper()
	k, err := Fetch(t.Context(), Series()[0])
	if err != nil {
		t.Fatal(err)
	}
	return &Guest{Kernel: k}
}

// What a guest promises, told by the guest.
func TestAGuestIsAsPromised(t *testing.T) {
	g := guest(t)
	g.Modules = []string{"veth"}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(root, ".cache", "vm-precious")
	defer os.Remove(precious)
	script := `set -e
uname -r
pwd
echo "$WORD"
grep -c '^veth ' /proc/modules
modprobe -a sch_ingress cls_bpf vxlan wireguard bonding 8021q bridge br_netfilter dummy nf_tables ip_vs
stat -f -c %T /sys/fs/bpf /sys/fs/cgroup /tmp /run /var
ip -br address show lo
: >` + precious + `
echo complaint >&2
`
	var out bytes.Buffer
	results, times, err := g.Run(t.Context(),
		Command{Args: []string{"sh", "-c", script}, Dir: root, Env: []string{"WORD=it's one"}, Output: &out},
		Command{Args: []string{"sh", "-c", "exit 7"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: boot %v, all %v", g.Kernel, times.Boot, times.Total)
	if len(results) != 2 || results[0].ExitStatus != 0 || results[1].ExitStatus != 7 {
		t.Errorf("results %+v, want exit statuses 0 and 7", results)
	}
	want := []string{g.Kernel.Release, root, "it's one", "1", "bpf_fs", "cgroup2fs", "tmpfs", "tmpfs", "tmpfs"}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != len(want)+2 || strings.Join(got[:len(want)], "\n") != strings.Join(want, "\n") ||
		!strings.Contains(got[len(want)], "127.0.0.1/8") || got[len(want)+1] != "complaint" {
		t.Errorf("got\n%s\nwant %q, loopback, and the complaint", out.String(), want)
	}
	if _, err := os.Stat(precious); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the guest wrote to the host: %v", err)
	}
}

func TestAGuestThatPanicsShowsItsConsole(t *testing.T) {
	results, _, err := guest(t).Run(t.Context(), Command{Args: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}}, Command{Args: []string{"true"}})
	var ce *ConsoleError
	if !errors.As(err, &ce) || !strings.Contains(ce.Console, "Kernel panic") || len(results) != 0 {
		t.Errorf("got %+v, %v, want a panic on the console", results, err)
	}
}

func TestAGuestThatHangsIsKilled(t *testing.T) {
	g := guest(t)
	g.Timeout = time.Second // it does not even boot
	results, _, err := g.Run(t.Context(), Command{Args: []string{"true"}})
	if err == nil || !strings.Contains(err.Error(), "longer than 1s") || len(results) != 0 {
		t.Errorf("got %+v, %v, want it killed", results, err)
	}
}

func TestOutputComesWhileTheCommandRuns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := writer(func(b []byte) (int, error) {
		cancel() // the command would run for longer than the guest may
		return len(b), nil
	})
	_, _, err := guest(t).Run(ctx, Command{Args: []string{"sh", "-c", "echo here; sleep 100000"}, Output: said})
	if err == nil || ctx.Err() == nil || strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v, want it killed once it said something", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestAPackageThatIsNotThereIsAnError(t *testing.T) {
	workspace, err := Workspace()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(workspace)
	if _, err := GoTest(t.Context(), workspace, "./maps/none"); err == nil {
		t.Error("a package that is not there")
	}
}
