// SPDX-License-Identifier: Apache-2.0

//go:build privileged

// Package lab_test runs the waggle binary in network namespaces and talks
// through it with real sockets.
package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/testbinary"
)

// patience bounds every wait of these tests; nothing is asserted about time.
// TestMain makes it longer where instructions are emulated.
var patience = 20 * time.Second

// Paths of the binaries under test, set once by TestMain.
var (
	waggle   string
	byClsact string // attaches as on kernels without tcx
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if name := os.Getenv(helperVariable); name != "" {
		return runHelper(name)
	}
	w, err := testbinary.BuildWaggle("clsact")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer w.Remove()
	waggle, byClsact = w.Path(""), w.Path("clsact")
	if w.Given {
		patience = 3 * time.Minute
	}
	return m.Run()
}

// scene is a lab with a daemon on its director.
type scene struct {
	*netlab.Lab
	t     *testing.T
	pins  string
	rules string
	// daemon is the binary that runs, waggle, byClsact or what is at such a path in an
	// image, and under what runs it and the cleanup at the end: words before the
	// command line.
	daemon string
	under  []string
	args   []string // more flags of `waggle run`
	// dataplane is a word of --dataplane: ebpf unless a test says otherwise, as the
	// probe of auto takes a second.
	dataplane string
	// sockets is whose are led: a word of --socket-lb; at first none are. What the
	// director and the clients do, they do in the control group of the lab.
	sockets string
	group   *netlab.Cgroup
	log     bytes.Buffer
	logMu   sync.Mutex
	run     *netlab.Process
}

func newScene(t *testing.T, opts netlab.Options) *scene {
	t.Helper()
	lab, err := netlab.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Lab: lab, t: t, rules: filepath.Join(t.TempDir(), "rules"), daemon: waggle, dataplane: "ebpf", sockets: "off"}
	if strings.HasPrefix(t.Name(), "TestByClsact/") {
		s.daemon = byClsact
	}
	s.pins = fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-%s", os.Getpid(), strings.ToLower(filepath.Base(filepath.Dir(s.rules))))
	t.Cleanup(s.end)
	return s
}

func (s *scene) end() {
	if s.run != nil {
		if err := s.run.Stop(patience); err != nil && !s.killed(err) {
			s.t.Errorf("stop the daemon: %v", err)
		}
	}
	cleanup, run := s.confined(s.daemon, "cleanup", "--pin-path", s.pins), (*exec.Cmd).Run
	if s.under != nil {
		run = s.Director.Run // what has few privileges cannot enter it
	}
	var out bytes.Buffer
	cleanup.Stdout, cleanup.Stderr = &out, &out
	if err := run(cleanup); err != nil {
		s.t.Errorf("cleanup: %v\n%s", err, &out)
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("cleanup left %s: %v", s.pins, err)
	}
	if err := s.Close(); err != nil {
		s.t.Error(err)
	}
	if s.t.Failed() {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		s.t.Logf("the daemon's log:\n%s", s.log.String())
	}
}

// confined is a command under what the scene's run under.
func (s *scene) confined(name string, args ...string) *exec.Cmd {
	line := slices.Concat(s.under, []string{name}, args)
	return exec.Command(line[0], line[1:]...)
}

func (s *scene) killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()
}

// Write takes the daemon's log.
func (s *scene) Write(b []byte) (int, error) {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.Write(b)
}

// write puts the rules in place as a careful editor does.
func (s *scene) write(rules string) {
	s.t.Helper()
	tmp := s.rules + ".new"
	if err := os.WriteFile(tmp, []byte(rules), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(tmp, s.rules); err != nil {
		s.t.Fatal(err)
	}
}

// edit writes the rules and waits until the kernel has what they say.
func (s *scene) edit(rules string) {
	s.t.Helper()
	s.write(rules)
	s.eventually("the rules are applied", func() error {
		if d, code := s.differs("--services", s.rules); code != 0 {
			return fmt.Errorf("they differ: %+v", d.Items)
		}
		return nil
	})
}

// start starts the daemon and waits until it says that it is ready.
func (s *scene) start() {
	s.t.Helper()
	args := []string{"run", "--services", s.rules, "--pin-path", s.pins, "--dataplane", s.dataplane}
	if s.dataplane != "ipvs" {
		args = append(args, "--socket-lb", s.sockets)
	}
	if s.group != nil {
		args = append(args, "--cgroup", s.group.Path)
	}
	s.launch(s.confined(s.daemon, append(args, s.args...)...))
}

// launch starts a daemon by its command line and waits until it says that it is ready.
func (s *scene) launch(cmd *exec.Cmd) {
	s.t.Helper()
	s.logMu.Lock()
	seen := s.log.Len()
	s.logMu.Unlock()
	cmd.Stderr = s
	p, err := s.Director.Start(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.run = p
	s.eventually("the daemon is ready", func() error {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		if strings.Contains(s.log.String()[seen:], "ready") {
			return nil
		}
		select {
		case <-p.Done():
			s.t.Fatalf("the daemon ended: %v\n%s", p.Wait(), s.log.String())
		default:
		}
		return errors.New("not ready")
	})
}

func (s *scene) kill() {
	s.t.Helper()
	if err := syscall.Kill(s.run.PID, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	<-s.run.Done()
	s.run = nil
}

// eventually tries f until it returns nil.
func (s *scene) eventually(what string, f func() error) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// serve answers on both addresses of the node by its name, and echoes.
func (s *scene) serve(n *netlab.Node, name string, port uint16) {
	s.t.Helper()
	for _, v6 := range []bool{false, true} {
		serveAt(s.t, n.Namespace, netip.AddrPortFrom(n.Addr(v6), port), named(name))
	}
}

// serveAt answers at an address until the test ends.
func serveAt(t *testing.T, n *netlab.Namespace, addr netip.AddrPort, greeting func(net.Addr) string) {
	t.Helper()
	stop, err := n.Serve(addr, greeting)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// nameSize is how long the part of an answer is that names the server.
const nameSize = 8

func named(name string) func(net.Addr) string {
	return func(net.Addr) string { return fmt.Sprintf("%-*s", nameSize, name) }
}

// connect opens a TCP connection and returns it with the name of who answered.
func connect(from *netlab.Node, to netip.AddrPort) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, "", err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, "", err
	}
	name := make([]byte, nameSize)
	if _, err := io.ReadFull(c, name); err != nil {
		c.Close()
		return nil, "", fmt.Errorf("read the greeting: %w", err)
	}
	return c, strings.TrimSpace(string(name)), nil
}

// ask sends one datagram from a new port and returns who answered.
func ask(from *netlab.Node, to netip.AddrPort) (string, error) {
	c, err := from.Dial(context.Background(), "udp", to.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	if _, err := c.Read(buf); err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buf[:nameSize])), nil
}

// echo sends b and reads it back.
func echo(c net.Conn, b []byte) error { return netlab.Echo(c, c, b) }
