// SPDX-License-Identifier: Apache-2.0

//go:build privileged

// Package cni_test builds networks of the shapes that CNIs build, runs the
// waggle binary on their nodes and talks through it with real sockets.
package cni_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/testbinary"
)

// patience bounds every wait of these tests; nothing is asserted about time.
// It is longer in guests, where instructions are emulated; testMain sets it.
var patience = 20 * time.Second

// waggle is the path of the binary under test, set once by TestMain.
var waggle string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	w, err := testbinary.BuildWaggle()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer w.Remove()
	waggle = w.Path("")
	if w.Given {
		patience = 2 * time.Minute
	}
	return m.Run()
}

// scene is one network. Its first node is there from the start.
type scene struct {
	*testing.T
	lab   *netlab.Lab
	node  *node
	nodes []*node
	// names are those of namespaces by role, for "{role}" in batches.
	names map[string]string
}

// node is a machine that forwards, with a daemon once start is called.
type node struct {
	*netlab.Namespace
	s           *scene
	pins, rules string
	run         *netlab.Process

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

// host is a pod or another machine with one address of each family.
type host struct {
	*netlab.Namespace
	name   string
	v4, v6 netip.Addr
}

func (h *host) addr(v6 bool) netip.Addr {
	if v6 {
		return h.v6
	}
	return h.v4
}

func newScene(t *testing.T) *scene {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "cni"})
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, lab: lab, names: map[string]string{}}
	t.Cleanup(s.end)
	s.node = s.add(lab.Director, "node")
	return s
}

// addNode adds a second machine.
func (s *scene) addNode(role string) *node {
	s.Helper()
	ns := s.namespace(role)
	if err := ns.EnableForwarding(); err != nil {
		s.Fatal(err)
	}
	return s.add(ns, role)
}

func (s *scene) add(ns *netlab.Namespace, role string) *node {
	n := &node{Namespace: ns, s: s, rules: filepath.Join(s.TempDir(), role)}
	n.pins = fmt.Sprintf("/sys/fs/bpf/%s", ns.Name)
	s.names[role] = ns.Name
	s.nodes = append(s.nodes, n)
	return n
}

func (s *scene) namespace(role string) *netlab.Namespace {
	s.Helper()
	ns, err := s.lab.AddNamespace(role)
	if err != nil {
		s.Fatal(err)
	}
	s.names[role] = ns.Name
	return ns
}

// host adds a machine that serves its name on port 8080 once it has its
// addresses: see serve.
func (s *scene) host(role, v4, v6 string) *host {
	s.Helper()
	return &host{s.namespace(role), role, netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

func (s *scene) end() {
	for _, n := range s.nodes {
		n.end()
	}
	if err := s.lab.Close(); err != nil {
		s.Error(err)
	}
}

func (n *node) end() {
	if n.run == nil {
		return
	}
	if n.s.Failed() {
		n.tell()
	}
	if err := n.run.Stop(patience); err != nil {
		n.s.Errorf("stop the daemon: %v", err)
	}
	if out, err := exec.Command(waggle, "cleanup", "--pin-path", n.pins).CombinedOutput(); err != nil {
		n.s.Errorf("cleanup: %v\n%s", err, out)
	}
}

// tell logs what a failed test is understood by.
func (n *node) tell() {
	n.mu.Lock()
	n.s.Logf("the daemon's log on %s:\n%s", n.Name, n.log.String())
	n.mu.Unlock()
	for _, verb := range []string{"flows", "stats"} {
		out, err := exec.Command(waggle, verb, "--pin-path", n.pins).CombinedOutput()
		n.s.Logf("waggle %s on %s (%v):\n%s", verb, n.Name, err, out)
	}
	n.s.Logf("nft list ruleset on %s:\n%s", n.Name, n.s.output(n.Namespace, "", "nft", "list", "ruleset"))
}

// Write takes the daemon's log.
func (n *node) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(b)
}

// start starts the daemon with these services and waits until it is ready.
func (n *node) start(rules string) {
	n.s.Helper()
	if err := os.WriteFile(n.rules, []byte(rules), 0o600); err != nil {
		n.s.Fatal(err)
	}
	cmd := exec.Command(waggle, "run", "--services", n.rules, "--pin-path", n.pins, "--socket-lb", "off")
	cmd.Stderr = n
	p, err := n.Start(cmd)
	if err != nil {
		n.s.Fatal(err)
	}
	n.run = p
	n.s.eventually("the daemon is ready", func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if strings.Contains(n.log.String(), "msg=ready") {
			return nil
		}
		if strings.Contains(n.log.String(), "level=ERROR") {
			n.s.Fatalf("the daemon complains:\n%s", n.log.String())
		}
		select {
		case <-p.Done():
			n.s.Fatalf("the daemon ended: %v\n%s", p.Wait(), n.log.String())
		default:
		}
		return errors.New("not ready")
	})
}

// drops returns the reasons that the node has counted packets for.
func (n *node) drops() (reasons []string) {
	n.s.Helper()
	out, err := exec.Command(waggle, "stats", "-o", "json", "--pin-path", n.pins).Output()
	if err != nil {
		n.s.Fatalf("waggle stats: %v", err)
	}
	var stats struct {
		Drops []struct {
			Reason  string
			Packets uint64
		}
	}
	if err := json.Unmarshal(out, &stats); err != nil || len(stats.Drops) == 0 {
		n.s.Fatalf("waggle stats: %v\n%s", err, out)
	}
	for _, d := range stats.Drops {
		if d.Packets > 0 {
			reasons = append(reasons, d.Reason)
		}
	}
	return reasons
}

// droppedOnly fails the test if a node dropped anything for another reason.
func (s *scene) droppedOnly(allowed ...string) {
	s.Helper()
	for _, n := range s.nodes {
		if n.run == nil {
			continue
		}
		for _, r := range n.drops() {
			if !slices.Contains(allowed, r) {
				s.Errorf("%s dropped packets: %s", n.Name, r)
			}
		}
	}
}

// output runs a program in a namespace, with an input, and returns what it
// prints.
func (s *scene) output(ns *netlab.Namespace, input string, program ...string) string {
	s.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Run(cmd); err != nil {
		s.Errorf("%s in %s: %v\n%s\n%s", strings.Join(program, " "), ns.Name, err, &out, input)
	}
	return out.String()
}

var role = regexp.MustCompile(`\{[a-z0-9]+\}`)

// ip runs commands of ip(8), one a line; {role} is the name of that namespace.
func (s *scene) ip(ns *netlab.Namespace, batch string) {
	s.Helper()
	batch = role.ReplaceAllStringFunc(batch, func(r string) string { return s.names[strings.Trim(r, "{}")] })
	s.output(ns, batch, "ip", "-batch", "-")
	if s.Failed() {
		s.FailNow()
	}
}

// nft loads a ruleset.
func (s *scene) nft(ns *netlab.Namespace, rules string) {
	s.Helper()
	s.output(ns, rules, "nft", "-f", "-")
	if s.Failed() {
		s.FailNow()
	}
}

var packets = regexp.MustCompile(`packets (\d+)`)

// counter reads a named counter of table inet lab.
func (s *scene) counter(ns *netlab.Namespace, name string) int {
	s.Helper()
	out := s.output(ns, "", "nft", "list", "counter", "inet", "lab", name)
	m := packets.FindStringSubmatch(out)
	if m == nil {
		s.Fatalf("counter %s:\n%s", name, out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s *scene) sysctl(ns *netlab.Namespace, values ...string) {
	s.Helper()
	for _, v := range values {
		name, value, _ := strings.Cut(v, "=")
		if err := ns.SetSysctl(name, value); err != nil {
			s.Fatal(err)
		}
	}
}

// eventually tries f until it returns nil.
func (s *scene) eventually(what string, f func() error) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
