// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// theirs says in a child what the test wants of it.
const theirs = "WAGGLE_IPVS_CHILD"

// TestChild is what a test has a process of its own do: what is found missing there
// is missing for that process only.
func TestChild(t *testing.T) {
	scheduler, isChild := os.LookupEnv(theirs)
	if !isChild {
		return
	}
	inNamespace(t, func(*netlab.Namespace) error {
		d, err := New(Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		defer d.Close()
		snap, err := lb.NewSnapshot(service("web", "203.0.113.1:80", "1", scheduled(scheduler)))
		if err != nil {
			return err
		}
		rep := d.Apply(snap)
		for _, err := range rep.Failed {
			t.Error(err)
		}
		return rep.Err
	})
}

// lacking unloads modules that begin with these words, has none loaded until the
// test ends, and returns what a process says that needs them.
func lacking(t *testing.T, scheduler string, prefixes ...string) string {
	t.Helper()
	if err := unix.Mount("none", "/lib/modules", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount("/lib/modules", 0); err != nil {
			t.Error(err)
		}
	}()
	for begun := time.Now(); unload(t, prefixes); time.Sleep(100 * time.Millisecond) {
		if time.Since(begun) > time.Minute { // namespaces that are gone go in the background
			t.Fatalf("modules %v stay in use", prefixes)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), theirs+"="+scheduler)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("nothing is missing:\n%s", out)
	}
	return string(out)
}

// unload unloads modules, and says whether there are any.
func unload(t *testing.T, prefixes []string) (some bool) {
	t.Helper()
	list, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		name := strings.Fields(line)[0]
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				some = true
				_ = unix.DeleteModule(name, unix.O_NONBLOCK) // in its turn
			}
		}
	}
	return some
}

// TestWhatIsMissingIsSaid is in the first file of the package by name: once a test
// has used nftables its modules stay in use for minutes.
func TestWhatIsMissingIsSaid(t *testing.T) {
	tests := []struct {
		name, scheduler string
		unload          []string
		want            string
	}{
		{"scheduler", "sh", []string{"ip_vs_sh"}, "the kernel lacks scheduler sh: modprobe ip_vs_sh"},
		{"IPVS", "rr", []string{"ip_vs"}, "the kernel has no IPVS: modprobe ip_vs"},
		{"nftables", "rr", []string{"nft_", "nf_tables"}, "the kernel has no nftables: modprobe nf_tables"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			loadAll(t)
			if got := lacking(t, tt.scheduler, tt.unload...); !strings.Contains(got, tt.want) {
				t.Errorf("said:\n%s\nwant %q", got, tt.want)
			}
		})
	}
	loadAll(t)
}

// loadAll loads all that the dataplane needs.
func loadAll(t *testing.T) {
	t.Helper()
	_ = exec.Command("modprobe", "nft_objref").Run() // a part of nf_tables in later kernels
	needed := []string{"-a", "ip_vs", "ip_vs_rr", "dummy", "nf_tables", "nft_ct", "nft_fib_ipv4", "nft_fib_ipv6", "nft_reject_ipv4", "nft_reject_ipv6", "nft_masq", "nft_chain_nat"}
	if out, err := exec.Command("modprobe", needed...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
