// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
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

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/netlab"
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
// chart, of capabilities there are those of the chart. more are directories of this
// machine that are there too.
func (s *scene) contain(root string, c container, more map[string]string) []string {
	s.t.Helper()
	binds := ""
	for dir, at := range more {
		binds += fmt.Sprintf("mkdir -p .%[2]s && mount --bind %[1]s .%[2]s\n", dir, at)
	}
	holder := s.mountNamespace(fmt.Sprintf(`set -e
cd %[1]s
mount --bind . .
cd %[1]s
mkdir -p proc sys host/sys/fs/cgroup host/proc/sys/net run/waggle
mount -t proc proc proc
mount --bind proc/sys/net host/proc/sys/net
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount --bind /sys sys
mount --bind /sys/fs/bpf sys/fs/bpf
mount -o remount,bind,ro sys
mount --rbind /sys/fs/cgroup host/sys/fs/cgroup
mount -t tmpfs -o mode=0777,size=1m tmpfs run/waggle
%[2]smount -o remount,bind,ro .
`, root, binds))
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

// TestTheImage has the image's root file system, confined as the chart confines its
// container, serve what a file says and what an API server says.
func TestTheImage(t *testing.T) {
	c := deployed(t)
	if sc := c.SecurityContext; sc.Privileged || sc.AllowPrivilegeEscalation || !sc.ReadOnlyRootFilesystem || !slices.Equal(sc.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("the chart's securityContext is %+v: this test confines more", sc)
	}
	root := imageRoot(t)
	t.Run("file", func(t *testing.T) { servesAFile(t, root, c) })
	t.Run("cluster", func(t *testing.T) { followsAnAPIServer(t, root, c) })
}

// inImage are a scene's words for a daemon of the image.
func (s *scene) inImage(root string, c container, more map[string]string) {
	s.under = s.contain(root, c, more)
	s.daemon = "--" // capsh runs its --shell with what stands behind that
	s.args = []string{"--cgroup", filepath.Join("/host", s.group.Path)}
}

// servesAFile goes through a daemon's life, with a flow table as large as the chart
// lets it become.
func servesAFile(t *testing.T, root string, c container) {
	s := newBounded(t, waggle, nil)
	s.inImage(root, c, map[string]string{filepath.Dir(s.rules): filepath.Dir(s.rules)})
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

// followsAnAPIServer runs the command line of the chart, as its service account,
// with the environment that the chart makes.
func followsAnAPIServer(t *testing.T, root string, c container) {
	api := kubetest.Start(t)
	api.Apply(t, "kube-system", readDoc(t, "deploy/waggle.yaml"))
	s := newBounded(t, waggle, nil)
	l, err := s.Director.Listen(t.Context(), "tcp", api.Addr)
	if err != nil {
		t.Fatal(err)
	}
	api.Forward(t, l)
	s.inImage(root, c, map[string]string{accountDirectory(t, api): "/var/run/secrets/kubernetes.io/serviceaccount"})

	ns := api.Namespace(t)
	api.SetNode(t, kubetest.Node{Name: "director", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	api.Apply(t, ns, "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, ports: [{port: 80, targetPort: 8080}]}}")
	api.UpdateStatus(t, "Service", ns, "web", fmt.Sprintf("loadBalancer: {ingress: [{ip: %s}]}", netlab.VIP4))
	var endpoints []kubetest.Endpoint
	for _, srv := range s.Servers() {
		endpoints = append(endpoints, kubetest.Endpoint{Addr: srv.Addr(false), Node: srv.Device})
	}
	api.SetEndpoints(t, ns, "web", endpoints...)

	s.args = append(s.args, "--pin-path", s.pins, "--conntrack-udp-timeout=31s")
	cmd := s.confined(s.daemon, append(s.chartsArgs(c), s.args...)...)
	host, port, _ := net.SplitHostPort(api.Addr)
	cmd.Env = append(os.Environ(), "NODE_NAME=director", "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	s.launch(cmd)
	s.eventually("each server answers at the address of the load balancer", func() error {
		seen := make(map[string]bool)
		for range 2 * len(endpoints) {
			conn, who, err := connect(s.Clients()[0], vip4)
			if err != nil {
				return err
			}
			conn.Close()
			seen[who] = true
		}
		if len(seen) != len(endpoints) {
			return fmt.Errorf("only %v", seen)
		}
		return nil
	})
	s.hasNoMoreThan(c.SecurityContext.Capabilities.Add)
	if got := s.director("cat", "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"); got != "31\n" {
		s.t.Errorf("the sysctl is %s: the container's own is read-only, and /host/proc/sys/net is not", got)
	}
}

// chartsArgs are the chart's arguments, as far as this binary has the flags:
// test/deploy says which it may lack.
func (s *scene) chartsArgs(c container) (args []string) {
	s.t.Helper()
	help, err := s.confined(s.daemon, "run", "--help").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	values := strings.NewReplacer("$(NODE_NAME)", "director", "CLUSTER_CIDR", "10.244.0.0/16")
	for _, arg := range c.Args {
		if flag, _, ok := strings.Cut(arg, "="); !ok || strings.Contains(string(help), " "+flag+" ") {
			args = append(args, values.Replace(arg))
		}
	}
	return args
}

// accountDirectory is what a pod of the chart's service account finds mounted.
func accountDirectory(t *testing.T, api *kubetest.Server) string {
	t.Helper()
	var config struct {
		Users []struct{ User struct{ Token string } }
	}
	text, err := os.ReadFile(api.AccountKubeconfig(t, "kube-system", "waggle"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(api.CA)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"token": config.Users[0].User.Token, "ca.crt": string(ca), "namespace": "kube-system"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
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
