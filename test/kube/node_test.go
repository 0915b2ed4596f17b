// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// node is a node's namespace and its daemon.
type node struct {
	*host
	c      *cluster
	number int
	group  *netlab.Cgroup // of its processes and its pods'
	pods   []*pod

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
	run *netlab.Process
	cut func() // parts the node from the API server
}

// zone is a for the first node, b for the others.
func (n *node) zone() string {
	if n.number == 1 {
		return "a"
	}
	return "b"
}

// object is the node as its kubelet would have it at the API server.
func (n *node) object() kubetest.Node {
	o := kubetest.Node{Name: n.name, Zone: n.zone(), Addrs: []netip.Addr{n.v4, n.v6}}
	for _, v6 := range []bool{false, true} {
		o.PodCIDRs = append(o.PodCIDRs, inNet(podAddr(n.number, 1, v6)).Masked())
	}
	return o
}

func (n *node) pins() string {
	return fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-%s", os.Getpid(), n.name)
}

// Write takes the daemon's log.
func (n *node) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(b)
}

func (n *node) logged() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.String()
}

// detectLocal is how each node tells its pods: all ways must come to the same.
func (n *node) detectLocal() []string {
	switch n.number {
	case 1:
		return []string{"--cluster-cidr", join(podNets)}
	case 2:
		return []string{"--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", podBridge}
	}
	return []string{"--detect-local-mode", "NodeCIDR"}
}

// start connects the node to the API server and starts its daemon, which ends with
// the test, with all that it left in the kernel.
func (n *node) start() {
	t := n.c.t
	t.Helper()
	n.reconnect()
	n.launch()
	t.Cleanup(func() {
		if err := n.run.Stop(patience); err != nil && !killed(err) {
			t.Errorf("stop the daemon of %s: %v", n.name, err)
		}
		cleanup := exec.Command(waggle, "cleanup", "--pin-path", n.pins())
		if out, err := n.output(cleanup); err != nil {
			t.Errorf("cleanup on %s: %v\n%s", n.name, err, out)
		}
		if t.Failed() {
			t.Logf("the log of %s:\n%s", n.name, n.logged())
		}
	})
}

func killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()
}

func (n *node) output(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Run(cmd)
	return out.String(), err
}

// reconnect makes the API server reachable at the address of its kubeconfig.
func (n *node) reconnect() {
	n.c.t.Helper()
	l, err := n.Listen(n.c.t.Context(), "tcp", n.c.api.Addr)
	n.c.must(err)
	n.cut = n.c.api.Forward(n.c.t, l)
}

// launch starts the daemon and waits until it serves.
func (n *node) launch() {
	n.c.t.Helper()
	seen := len(n.logged())
	n.spawn(n.c.api.Kubeconfig(n.c.t))
	n.says("ready", seen)
}

// spawn starts the daemon, with the rights of a kubeconfig.
func (n *node) spawn(kubeconfig string) {
	n.c.t.Helper()
	args := append([]string{
		"run", "--dataplane", *dataplaneWord, "--kubeconfig", kubeconfig, "--hostname-override", n.name, "--pin-path", n.pins(), "--external-ips", join(vipNets),
	}, n.detectLocal()...)
	if *dataplaneWord == byEBPF {
		args = append(args, "--socket-lb", n.c.sockets(), "--cgroup", n.group.Path)
	}
	if words := n.c.options.nodePorts[n.name]; words != "" {
		args = append(args, "--nodeport-addresses", words)
	}
	cmd := exec.Command(waggle, args...)
	cmd.Stderr = n
	p, err := n.Start(cmd)
	n.c.must(err)
	n.run = p
}

// says waits until the daemon's log has this text, behind what has been seen of it.
func (n *node) says(text string, seen int) {
	t := n.c.t
	t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(n.logged()[seen:], text) {
		select {
		case <-n.run.Done():
			t.Fatalf("the daemon of %s ended: %v\n%s", n.name, n.run.Wait(), n.logged())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemon of %s does not say %q:\n%s", n.name, text, n.logged())
		}
	}
}

// kill ends the daemon without a chance to tidy up.
func (n *node) kill() {
	n.c.t.Helper()
	n.c.must(syscall.Kill(n.run.PID, syscall.SIGKILL))
	<-n.run.Done()
}
