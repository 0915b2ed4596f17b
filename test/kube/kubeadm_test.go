// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// container is a node's namespace with what a container of kubeadm's DaemonSet
// kube-proxy has in its file system: the ConfigMap, as kubelet mounts it, and the token.
type container struct {
	t      *testing.T
	api    *kubetest.Server
	node   *netlab.Namespace
	group  *netlab.Cgroup
	config string // directory of the ConfigMap
	holder *netlab.Process

	mu  sync.Mutex
	log strings.Builder // guarded by mu
}

func (c *container) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

// await waits until the log has this text more than before times.
func (c *container) await(text string, before int) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		log := c.log.String()
		c.mu.Unlock()
		if strings.Count(log, text) > before {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("never %q in:\n%s", text, log)
		}
	}
}

func (c *container) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// nodeIP is the address of the container's node.
var nodeIP = netip.MustParseAddr("172.31.9.1")

// newContainer makes one whose mount namespace lives until the test ends.
func newContainer(t *testing.T) *container {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "adm"})
	if err != nil {
		t.Fatal(err)
	}
	c := &container{t: t, api: shared.Start(t), node: lab.Director, config: t.TempDir()}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log:\n%s", c.log.String())
		}
	})
	c.group, err = lab.AddCgroup()
	c.must(err)
	c.node.SetCgroup(c.group)
	c.must(addBridge(c.node, uplink))
	c.must(c.node.AddAddr(uplink, netip.PrefixFrom(nodeIP, 24)))
	c.api.SetNode(t, kubetest.Node{Name: "adm", Zone: "a", Addrs: []netip.Addr{nodeIP}})
	l, err := c.node.Listen(t.Context(), "tcp", c.api.Addr)
	c.must(err)
	c.api.Forward(t, l)

	kubeconfig, err := os.ReadFile("../../sync/kube/proxyconfig/testdata/kubeconfig.conf")
	c.must(err)
	config, err := os.ReadFile("../../sync/kube/proxyconfig/testdata/config.conf")
	c.must(err)
	c.write(map[string]string{
		"kubeconfig.conf": strings.Replace(string(kubeconfig), "https://192.0.2.1:6443", c.api.URL, 1),
		"config.conf":     string(config),
	})
	c.hold()
	return c
}

// write changes the ConfigMap as kubelet does: all files at once, by a symbolic link.
func (c *container) write(files map[string]string) {
	c.t.Helper()
	dir, err := os.MkdirTemp(c.config, "..2026_")
	c.must(err)
	for name, text := range files {
		c.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		if at := filepath.Join(c.config, name); os.Symlink("..data/"+name, at) != nil {
			_, err := os.Lstat(at) // there already
			c.must(err)
		}
	}
	c.must(os.Symlink(filepath.Base(dir), filepath.Join(c.config, "..data_tmp")))
	c.must(os.Rename(filepath.Join(c.config, "..data_tmp"), filepath.Join(c.config, "..data")))
}

// mounts puts a container's file system together, of which nothing is seen outside.
const mounts = `mount -t tmpfs run /run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
cp "$CA" /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
printf %s "$TOKEN" > /var/run/secrets/kubernetes.io/serviceaccount/token
mount -t tmpfs lib /var/lib
mkdir /var/lib/kube-proxy
mount --bind "$CONFIG" /var/lib/kube-proxy
mount -t tmpfs bin /usr/local/bin
ln -s "$WAGGLE" /usr/local/bin/kube-proxy
mount -t bpf bpf /sys/fs/bpf
echo mounted >&2
exec sleep 1d`

// hold starts the process that keeps the mount namespace.
func (c *container) hold() {
	c.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", mounts)
	cmd.Env = append(os.Environ(), "CA="+c.api.CA, "TOKEN="+c.token(), "CONFIG="+c.config, "WAGGLE="+waggle)
	cmd.Stderr = c
	p, err := c.node.Start(cmd)
	c.must(err)
	c.holder = p
	c.await("mounted", 0)
}

// token is one of the service account that kubeadm makes, with its rights.
func (c *container) token() string {
	c.t.Helper()
	ns := c.api.Namespace(c.t)
	c.api.Apply(c.t, ns, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: kube-proxy}")
	c.api.Apply(c.t, "", fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s-node-proxier}
subjects: [{kind: ServiceAccount, name: kube-proxy, namespace: %[1]s}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}`, ns))
	text, err := os.ReadFile(c.api.AccountKubeconfig(c.t, ns, "kube-proxy"))
	c.must(err)
	var file struct {
		Users []struct{ User struct{ Token string } }
	}
	c.must(json.Unmarshal(text, &file))
	return file.Users[0].User.Token
}

// exec is a command in the container.
func (c *container) exec(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", c.holder.PID), "--"}, args...)...)
}

// start runs the DaemonSet's command. The machine's other processes are not the
// test's, so there is a control group.
func (c *container) start(more ...string) *netlab.Process {
	c.t.Helper()
	cmd := c.exec(append([]string{"/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override=adm", "--cgroup=" + c.group.Path}, more...)...)
	cmd.Stderr = c
	p, err := c.node.Start(cmd)
	c.must(err)
	return p
}

// output runs a command to its end.
func (c *container) output(args ...string) string {
	c.t.Helper()
	var out strings.Builder
	cmd := c.exec(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.node.Run(cmd); err != nil {
		c.t.Errorf("%s: %v: %s", args, err, &out)
	}
	return out.String()
}

// says fails unless who is at the address says the word.
func (c *container) says(addr, word string) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), patience)
	defer stop()
	conn, err := c.node.Dial(ctx, "tcp", addr)
	if err != nil {
		c.t.Errorf("connect to %s: %v", addr, err)
		return
	}
	defer conn.Close()
	c.must(conn.SetDeadline(time.Now().Add(patience)))
	if text := make([]byte, len(word)); true {
		if _, err := io.ReadFull(conn, text); err != nil || string(text) != word {
			c.t.Errorf("%s says %q, %v", addr, text, err)
		}
	}
}

// kubeadm's DaemonSet, with waggle in the place of kube-proxy: it serves, sets up the
// machine, and ends for another configuration while the kernel goes on.
func TestKubeadmsDaemonSetStarts(t *testing.T) {
	c := newContainer(t)
	stop, err := c.node.Serve(netip.AddrPortFrom(nodeIP, 8080), func(net.Addr) string { return "hello" })
	c.must(err)
	t.Cleanup(stop)
	ns := c.api.Namespace(t)
	web := c.api.Apply(t, ns, "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, ports: [{port: 80, targetPort: 8080}]}")[0]
	c.api.SetEndpoints(t, ns, "web", kubetest.Endpoint{Addr: nodeIP, Node: "adm"})
	vip := net.JoinHostPort(web.Text("spec", "clusterIP"), "80")
	local := fmt.Sprintf("127.0.0.1:%d", web.Int("spec", "ports", 0, "nodePort"))

	c.output("/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf", "--init-only")
	c.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600")
	c.sysctl("net/ipv4/conf/all/arp_ignore", "0")
	proxy := c.start()
	c.await("msg=ready", 0)
	c.says(vip, "hello")
	c.says(local, "hello")

	config, err := os.ReadFile(filepath.Join(c.config, "config.conf"))
	c.must(err)
	kubeconfig, err := os.ReadFile(filepath.Join(c.config, "kubeconfig.conf"))
	c.must(err)
	text := strings.NewReplacer("mode: \"\"", "mode: ipvs", "scheduler: \"\"", "scheduler: wlc", "strictARP: false", "strictARP: true", "tcpCloseWaitTimeout: null", "tcpCloseWaitTimeout: 59m0s", "oomScoreAdj: null", "oomScoreAdj: 500").Replace(string(config))
	c.write(map[string]string{"config.conf": text, "kubeconfig.conf": string(kubeconfig)})
	if err := proxy.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("with another configuration it ended with %v", err)
	}
	c.await("the configuration file has changed", 0)
	c.says(vip, "hello")

	proxy = c.start()
	c.await("msg=ready", 1)
	c.says(vip, "hello")
	c.sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3540")
	c.sysctl("net/ipv4/conf/all/arp_ignore", "1")
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", proxy.PID)); err != nil || strings.TrimSpace(string(text)) != "500" {
		t.Errorf("oom_score_adj is %s, %v", text, err)
	}
	if out := c.output("/usr/local/bin/kube-proxy", "--version"); !strings.HasPrefix(out, "waggle ") {
		t.Errorf("--version says %s", out)
	}
	if out := c.output(waggle, "services"); !strings.Contains(out, ns+"/web:") && !strings.Contains(out, ns+"/web/") || !strings.Contains(out, "wlc") {
		t.Errorf("no wlc in:\n%s", out)
	}
	c.must(syscall.Kill(proxy.PID, syscall.SIGTERM))
	c.must(proxy.Wait())
	if out := c.output("/usr/local/bin/kube-proxy", "--cleanup"); !strings.Contains(out, "removed ") {
		t.Errorf("--cleanup says %s", out)
	}
}

func (c *container) sysctl(name, want string) {
	c.t.Helper()
	if got, err := c.node.Sysctl(name); err != nil || got != want {
		c.t.Errorf("%s is %q, %v, want %s", name, got, err, want)
	}
}
