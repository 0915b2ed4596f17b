// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// unit is the service file, whose capabilities are those that these tests leave.
const unit = "deploy/systemd/waggle.service"

// unitCapabilities are what the service file bounds the daemon to, "cap_bpf".
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	for line := range strings.Lines(readDoc(t, unit)) {
		if list, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
			return strings.Fields(strings.ToLower(list))
		}
	}
	t.Fatalf("%s has no CapabilityBoundingSet", unit)
	return nil
}

// bounded are the words that take every capability but these from a command,
// in every set, for good.
func bounded(uid int, capabilities ...string) []string {
	set := "-all"
	for _, c := range capabilities {
		set += ",+" + strings.TrimPrefix(c, "cap_")
	}
	return []string{
		"setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups", "--no-new-privs", "--pdeathsig", "TERM",
		"--bounding-set", set, "--inh-caps", set, "--ambient-caps", set,
	}
}

// newBounded is a scene with traffic whose daemon is bounded.
func newBounded(t *testing.T, daemon string, under []string) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "cap", Clients: 1, Servers: 2, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}, AssignVIPs: true})
	s.daemon, s.under = daemon, under
	s.lead("all") // of a control group where no client is
	for _, srv := range s.Servers() {
		s.serve(srv, srv.Device, 8080)
	}
	s.write(s.text(s.Servers()...))
	return s
}

// lives goes through what a daemon does in its life.
func (s *scene) lives() {
	s.t.Helper()
	s.start()
	streams := []*stream{s.stream(vip4), s.stream(vip6)}
	s.goesOn(streams)
	for _, verb := range []string{"services", "backends", "flows", "clients", "stats", "status", "diff", "export --ipvsadm"} {
		out, err := s.confined(s.daemon, append(strings.Fields(verb), "--pin-path", s.pins)...).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("not running")) {
			s.t.Errorf("waggle %s: %v\n%s", verb, err, out)
		}
	}
	s.kill()
	s.goesOn(streams)
	s.start()
	s.goesOn(streams)
	s.write(s.text(s.Servers()[0]))
	s.eventually("an edit is applied", func() error { return s.never(s.Servers()[1].Device) })
	client, err := s.AddClient()
	if err != nil {
		s.t.Fatal(err)
	}
	s.eventually("a device that appears is served", func() error {
		_, err := ask(client, vip4)
		return err
	})
	s.goesOn(streams)
	s.finish(streams)
	for _, level := range []string{"level=WARN", "level=ERROR"} {
		if n := count(s.logText(), level); n != 0 {
			s.t.Errorf("%d lines of %s in the log", n, level)
		}
	}
}

func TestThreeCapabilitiesAreEnough(t *testing.T) {
	for name, daemon := range map[string]string{"tcx": waggle, "clsact": byClsact} {
		t.Run(name, func(t *testing.T) {
			s := newBounded(t, daemon, bounded(0, unitCapabilities(t)...))
			s.lives()
			s.wantPrivatePins()
		})
	}
}

// wantPrivatePins wants everything below the pin path to be its owner's alone.
func (s *scene) wantPrivatePins() {
	s.t.Helper()
	for _, pin := range s.pinned() {
		info, err := os.Lstat(pin)
		if err != nil {
			s.t.Fatal(err)
		}
		want := fs.FileMode(0o600)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			continue // has no mode of its own
		case info.IsDir():
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			s.t.Errorf("%s has mode %o, want %o", pin, got, want)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
			s.t.Errorf("%s is user %d's", pin, uid)
		}
	}
}

// TestAnotherUserOfABPFFSOfItsOwn: /sys/fs/bpf is root's, and so may /run/waggle
// be.
func TestAnotherUserOfABPFFSOfItsOwn(t *testing.T) {
	const uid = 54321
	s := newBounded(t, waggle, nil)
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(waggle), filepath.Dir(s.rules), filepath.Dir(filepath.Dir(s.rules)), filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	holder := s.mountNamespace(fmt.Sprintf("mount -t bpf -o mode=0700 bpf %[1]s && chown %[2]d:%[2]d %[1]s && "+
		"mkdir -p /run/waggle && mount -t tmpfs -o mode=0700,uid=%[2]d tmpfs /run/waggle", dir, uid))
	s.pins = filepath.Join(dir, "waggle")
	s.under = append(inMountNamespace(holder), bounded(uid, unitCapabilities(t)...)...)
	s.lives()
}

// mountNamespace makes a mount namespace, prepares it, and keeps it until the
// scene ends.
func (s *scene) mountNamespace(prepare string) *netlab.Process {
	s.t.Helper()
	said, ready, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "("+prepare+") && echo ready && exec sleep infinity")
	cmd.Stdout, cmd.Stderr = ready, s
	p, err := s.Director.Start(cmd)
	ready.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 1)); err != nil {
		s.t.Fatalf("%s: %v", prepare, err)
	}
	return p
}

func inMountNamespace(p *netlab.Process) []string {
	return []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", p.PID)}
}

// TestWhatIsMissingIsNamed: the kernel says no more than EPERM, or what its
// verifier thinks.
func TestWhatIsMissingIsNamed(t *testing.T) {
	s := newBounded(t, waggle, nil)
	all := unitCapabilities(t)
	for i, missing := range all {
		rest := append(append([]string(nil), all[:i]...), all[i+1:]...)
		said := s.fails(bounded(0, rest...))
		if !strings.Contains(said, "lacks "+strings.ToUpper(missing)+"\n") || !strings.Contains(said, "docs/security.md") {
			t.Errorf("without %s it says\n%s", missing, said)
		}
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want nothing there", s.pins, err)
	}
	bare := s.mountNamespace("umount --lazy /sys/fs/bpf")
	said := s.fails(append(inMountNamespace(bare), bounded(0, all...)...))
	for _, want := range []string{"mount bpffs on /sys/fs/bpf, which needs CAP_SYS_ADMIN", "mount -t bpf bpf /sys/fs/bpf"} {
		if !strings.Contains(said, want) {
			t.Errorf("without bpffs there is no %q in\n%s", want, said)
		}
	}
}

// fails runs a daemon that has to refuse, under what is given, and returns what
// it says.
func (s *scene) fails(under []string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	line := append(under, waggle, "run", "--services", s.rules, "--pin-path", s.pins, "--socket-lb", "off")
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	err := s.Director.Run(cmd)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		s.t.Errorf("it ended with %v, want exit 1", err)
	}
	return said.String()
}

// TestCleanupThatMayNotEnterANamespaceSaysSo: filters are in the daemon's, and
// their records are all that tells of them.
func TestCleanupThatMayNotEnterANamespaceSaysSo(t *testing.T) {
	s := newBounded(t, byClsact, bounded(0, unitCapabilities(t)...))
	s.start()
	s.kill()
	before := s.pinned()
	elsewhere := s.confined(waggle, "cleanup", "--pin-path", s.pins)
	var said bytes.Buffer
	elsewhere.Stderr = &said
	if err := s.Clients()[0].Run(elsewhere); err == nil || !strings.Contains(said.String(), "needs CAP_SYS_ADMIN") {
		t.Errorf("cleanup in another namespace: %v\n%s", err, &said)
	}
	if diff := cmp.Diff(before, s.pinned()); diff != "" {
		t.Errorf("pins (-before +after):\n%s", diff)
	}
	if err := s.never("nobody"); err != nil {
		t.Error(err)
	}
}
