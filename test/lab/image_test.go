// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// container is what deploy/waggle.yaml says of the daemon's.
type container struct {
	Image           string
	Command         []string
	SecurityContext struct {
		Capabilities             struct{ Add, Drop []string }
		Privileged               bool
		ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
		AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
	} `yaml:"securityContext"`
	Resources struct{ Limits struct{ Memory string } }
	Args      []string
}

// deployed reads the container of the DaemonSet in the plain manifests, which are
// those of the chart.
func deployed(t *testing.T) container {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(readDoc(t, "deploy/waggle.yaml")))
	for {
		var object struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct{ Containers []container }
				}
			}
		}
		if err := decoder.Decode(&object); err != nil {
			t.Fatalf("no DaemonSet in deploy/waggle.yaml: %v", err)
		}
		if object.Kind == "DaemonSet" {
			return object.Spec.Template.Spec.Containers[0]
		}
	}
}

// imageRoot makes the image and returns the directory that its files are in.
func imageRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "image.tar")
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = filepath.Join("..", "..")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("make", "image", "IMAGE_ARCHS="+runtime.GOARCH, "IMAGE_TAR="+archive)
	buildah := func(args ...string) string {
		t.Helper()
		return run("buildah", append([]string{"--root", filepath.Join(dir, "store"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
	}
	buildah("from", "--name", "it", "oci-archive:"+archive)
	t.Cleanup(func() { buildah("rm", "it") })
	root := buildah("mount", "it")
	if entry := buildah("inspect", "--format", "{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Architecture}}", "it"); entry != "[/usr/local/bin/waggle] "+runtime.GOARCH {
		t.Errorf("the image's entry point and architecture are %s", entry)
	}
	return root
}

// contain makes the root file system a container's, in a mount namespace of its
// own, and returns the words that run a program in it: mounts are those of the
// chart, with the directory of the rules in place of an API server, and of
// capabilities there are those of the chart.
func (s *scene) contain(root string, c container) []string {
	s.t.Helper()
	holder := s.mountNamespace(fmt.Sprintf(`set -e
cd %[1]s
mount --bind . .
cd %[1]s
mkdir -p proc sys host/sys/fs/cgroup run/waggle ./%[2]s
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount --bind /sys sys
mount --bind /sys/fs/bpf sys/fs/bpf
mount -o remount,bind,ro sys
mount --rbind /sys/fs/cgroup host/sys/fs/cgroup
mount -t tmpfs -o mode=0777,size=1m tmpfs run/waggle
mount --bind %[2]s ./%[2]s
mount -o remount,bind,ro .
`, root, filepath.Dir(s.rules)))
	return append(inMountNamespace(holder), "capsh", "--no-new-privs", "--chroot="+root, "--drop="+strings.Join(allBut(s.t, c.SecurityContext.Capabilities.Add), ","),
		"--shell="+c.Command[0])
}

// known are the capabilities that docs/security.md has for a daemon.
var known = map[string]int{"BPF": unix.CAP_BPF, "NET_ADMIN": unix.CAP_NET_ADMIN, "PERFMON": unix.CAP_PERFMON}

// allBut are the capabilities of this kernel but those, as Kubernetes names them.
func allBut(t *testing.T, add []string) (numbers []string) {
	t.Helper()
	var keep []int
	for _, name := range add {
		n, ok := known[name]
		if !ok {
			t.Fatalf("the chart has capability %s: say in docs/security.md what for, and add it here", name)
		}
		keep = append(keep, n)
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		t.Fatal(err)
	}
	for n := range most + 1 {
		if !slices.Contains(keep, n) {
			numbers = append(numbers, strconv.Itoa(n))
		}
	}
	return numbers
}

// TestTheImageServes has the image's root file system, confined as the chart
// confines its container, go through a daemon's life.
func TestTheImageServes(t *testing.T) {
	c := deployed(t)
	if sc := c.SecurityContext; sc.Privileged || sc.AllowPrivilegeEscalation || !sc.ReadOnlyRootFilesystem || !slices.Equal(sc.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("the chart's securityContext is %+v: this test confines more", sc)
	}
	root := imageRoot(t)
	s := newBounded(t, c.Command[0], nil)
	s.under = s.contain(root, c)
	s.daemon = "--" // capsh runs its --shell with what stands behind that
	s.args = []string{"--cgroup", filepath.Join("/host", s.group.Path)}
	for _, arg := range c.Args {
		if strings.HasPrefix(arg, "--flows-max=") {
			s.args = append(s.args, arg, strings.Replace(arg, "max", "min", 1))
		}
	}
	out, err := s.confined(s.daemon, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "platform ") {
		t.Fatalf("waggle version: %v\n%s", err, out)
	}
	s.lives()
	s.hasNoMoreThan(c.SecurityContext.Capabilities.Add)
	s.fitsInto(c.Resources.Limits.Memory)
}

// hasNoMoreThan wants the daemon's capabilities to be these, in all the sets that an
// execve may draw from.
func (s *scene) hasNoMoreThan(add []string) {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.run.PID))
	if err != nil {
		s.t.Fatal(err)
	}
	var want uint64
	for _, name := range add {
		want |= 1 << known[name]
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		if line := fmt.Sprintf("\n%s:\t%016x\n", set, want); !strings.Contains(string(status), line) {
			s.t.Errorf("no %q in\n%s", line, status)
		}
	}
}

// fitsInto wants the daemon and its maps to fit into the chart's memory limit, also
// when the flow table has just grown for the last time: then there is one of half
// the size beside it (docs/limits.md).
func (s *scene) fitsInto(limit string) {
	s.t.Helper()
	gib, err := strconv.ParseFloat(strings.TrimSuffix(limit, "Gi"), 64)
	if err != nil {
		s.t.Fatalf("the memory limit %q: this test reads Gi", limit)
	}
	needed := s.mapMemory() + uint64(s.statusKiB(fmt.Sprintf("/proc/%d", s.run.PID), "VmHWM"))<<10
	for _, info := range s.pinnedMaps() {
		if info.Name == "flows" {
			memlock, _ := info.Memlock()
			needed += memlock / 2
		}
	}
	if allowed := uint64(gib * (1 << 30)); needed > allowed || needed < allowed/5 {
		s.t.Errorf("the daemon and its maps take %d MiB, the chart allows %d", needed>>20, allowed>>20)
	}
}
