// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// path is how a client reaches a server.
type path struct {
	name string
	to   netip.AddrPort
	// led says that the client is in the control group whose sockets are led.
	led bool
	// conn is of the measurement of requests.
	conn int
}

// waysOf are those to a server that stands alone behind the VIP. The last ones are
// compared with the first.
func waysOf(backend netip.AddrPort) []*path {
	return []*path{
		{name: "direct", to: backend},
		{name: "direct-hooked", to: backend, led: true},
		{name: "VIP-by-socket", to: vips[0], led: true},
		{name: "VIP-by-tc", to: vips[0]},
	}
}

// measured is a lab with one server, which echoes single bytes, and one client.
type measured struct {
	*netlab.Lab
	b      *testing.B
	group  *netlab.Cgroup
	client *netlab.Node
	ways   []*path
}

func newMeasured(b *testing.B) *measured {
	b.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "bench", Clients: 1, Servers: 1, VIPs: addrsOf(vips)})
	if err != nil {
		b.Fatal(err)
	}
	m := &measured{Lab: lab, b: b, client: lab.Clients()[0]}
	b.Cleanup(func() { m.must(lab.Close()) })
	m.group, err = lab.AddCgroup()
	m.must(err)
	server := lab.Servers()[0]
	backend := netip.AddrPortFrom(server.V4, 8080)
	m.ways = waysOf(backend)
	l, err := server.Listen(b.Context(), "tcp", backend.String())
	m.must(err)
	b.Cleanup(func() { l.Close() })
	go acceptBytes(l)
	m.start(textAt(vips, "rr", server))
	return m
}

func (m *measured) must(err error) {
	m.b.Helper()
	if err != nil {
		m.b.Fatal(err)
	}
}

// start starts a daemon with these rules, and waits for it.
func (m *measured) start(rules string) {
	m.b.Helper()
	file := filepath.Join(m.b.TempDir(), "rules")
	m.must(os.WriteFile(file, []byte(rules), 0o600))
	pins := fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-bench", os.Getpid())
	m.b.Cleanup(func() {
		if out, err := exec.Command(waggle, "cleanup", "--pin-path", pins).CombinedOutput(); err != nil {
			m.b.Errorf("cleanup: %v\n%s", err, out)
		}
	})
	cmd := exec.Command(waggle, "run", "--services", file, "--pin-path", pins, "--socket-lb", "all", "--cgroup", m.group.Path)
	log, err := cmd.StderrPipe()
	m.must(err)
	p, err := m.Director.Start(cmd)
	m.must(err)
	m.b.Cleanup(func() { m.must(p.Stop(patience)) })
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "ready") {
	}
	go io.Copy(io.Discard, log)
}

func acceptBytes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f, err := c.(*net.TCPConn).File() // which blocks: no poller stands between
		c.Close()
		if err != nil {
			return
		}
		go func() {
			defer f.Close()
			buf := make([]byte, 1)
			for {
				if n, err := unix.Read(int(f.Fd()), buf); n != 1 || err != nil {
					return
				}
				if _, err := unix.Write(int(f.Fd()), buf); err != nil {
					return
				}
			}
		}()
	}
}

// by does something on a thread of the client, in the control group or not.
func (m *measured) by(w *path, f func() error) {
	m.b.Helper()
	m.client.SetCgroup(nil)
	if w.led {
		m.client.SetCgroup(m.group)
	}
	if err := m.client.Do(f); err != nil {
		m.b.Fatalf("%s: %v", w.name, err)
	}
}

// connected makes a socket and returns how long its connect(2) took. It is closed by
// a reset, so that no port has to wait.
func connected(to netip.AddrPort) (fd int, took time.Duration, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, 0, err
	}
	if err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, 0, err
	}
	if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, 0, err
	}
	at := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	began := time.Now()
	err = unix.Connect(fd, at)
	return fd, time.Since(began), err
}

// What connect(2) costs through a VIP: batches of connects by each way in turn.
func BenchmarkConnect(b *testing.B) {
	m := newMeasured(b)
	const batch = 200
	took := make(map[string][]time.Duration)
	for b.Loop() {
		for _, w := range m.ways {
			m.by(w, func() error {
				for range batch {
					fd, d, err := connected(w.to)
					if err != nil {
						return err
					}
					if err := unix.Close(fd); err != nil {
						return err
					}
					took[w.name] = append(took[w.name], d)
				}
				return nil
			})
		}
	}
	m.report(b, took, 1, "connect")
}

// What a byte there and back costs, on connections that are open.
func BenchmarkRequestResponse(b *testing.B) {
	m := newMeasured(b)
	for _, w := range m.ways {
		m.by(w, func() (err error) {
			w.conn, _, err = connected(w.to)
			return err
		})
		b.Cleanup(func() { unix.Close(w.conn) })
	}
	const batch = 500
	took := make(map[string][]time.Duration)
	buf := make([]byte, 1)
	for b.Loop() {
		for _, w := range m.ways {
			began := time.Now()
			for range batch {
				if _, err := unix.Write(w.conn, buf); err != nil {
					b.Fatal(err)
				}
				if n, err := unix.Read(w.conn, buf); n != 1 || err != nil {
					b.Fatalf("%s: read %d bytes: %v", w.name, n, err)
				}
			}
			took[w.name] = append(took[w.name], time.Since(began))
		}
	}
	m.report(b, took, batch, "round-trip")
}

// report prints medians, in nanoseconds of each of n.
func (m *measured) report(b *testing.B, took map[string][]time.Duration, n int, what string) {
	for _, w := range m.ways {
		all := took[w.name]
		slices.Sort(all)
		at := func(percent int) float64 { return float64(all[len(all)*percent/100].Nanoseconds()) / float64(n) }
		b.ReportMetric(at(50), fmt.Sprintf("ns-%s-%s", what, w.name))
		b.Logf("%s, %s: median %.0f ns, the middle half %.0f to %.0f, of %d", what, w.name, at(50), at(25), at(75), len(all))
	}
	b.ReportMetric(0, "ns/op")
}
