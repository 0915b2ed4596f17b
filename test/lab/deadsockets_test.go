// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// resetPort is the frontend's of the service whose lostBackend is reset.
const resetPort = 90

// lostRules are two services at both VIPs, one of which resets. Servers that are
// down are unhealthy.
func (s *scene) lostRules(servers []*netlab.Node, down ...*netlab.Node) string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for _, port := range []uint16{80, resetPort} {
		fmt.Fprintf(&b, "- name: port%d\n  scheduler: rr\n  frontends:\n", port)
		for _, vip := range vips {
			at := netip.AddrPortFrom(vip.Addr(), port)
			fmt.Fprintf(&b, "  - %q\n", at.String()+"/TCP")
			if port != resetPort {
				fmt.Fprintf(&b, "  - %q\n", at.String()+"/UDP")
			}
		}
		if port == resetPort {
			b.WriteString("  lostBackend: reset\n")
		}
		b.WriteString("  backends:\n")
		for _, n := range servers {
			for _, v6 := range []bool{false, true} {
				fmt.Fprintf(&b, "  - {address: %q, unhealthy: %v}\n", netip.AddrPortFrom(n.Addr(v6), 8080), slices.Contains(down, n))
			}
		}
	}
	return b.String()
}

// client is a socket, and by whom it was answered.
type client struct {
	what, server string
	c            net.Conn
	udp          bool
}

// talk sends and reads: by UDP an answer begins with the server's name.
func (c *client) talk() error {
	if err := c.c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.c.Write([]byte("?")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	n, err := c.c.Read(buf)
	if err == nil && c.udp {
		c.server = strings.TrimSpace(string(buf[:min(n, nameSize)]))
	}
	return err
}

// abort waits for the read that fails as the socket was ended.
func (c *client) abort(t *testing.T) {
	t.Helper()
	err := c.c.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = c.c.Read(make([]byte, 64))
	}
	if !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("%s at %s: %v, want it to be aborted", c.what, c.server, err)
	}
}

func (s *scene) client(from *netlab.Namespace, network string, to netip.AddrPort) *client {
	s.t.Helper()
	c := &client{what: fmt.Sprintf("%s from %s to %v", network, from.Name, to), c: s.dialed(from, network, to), udp: network == "udp"}
	if c.udp {
		if err := c.talk(); err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	name := make([]byte, nameSize)
	if _, err := io.ReadFull(c.c, name); err != nil {
		s.t.Fatal(err)
	}
	c.server = strings.TrimSpace(string(name))
	return c
}

// mapped is a client whose socket is of IPv6, and its peer of IPv4.
func (s *scene) mapped(to netip.AddrPort) *client {
	s.t.Helper()
	fd := -1
	err := s.Director.Do(func() (err error) {
		if fd, err = syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return syscall.Connect(fd, &syscall.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "mapped")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	c := &client{what: fmt.Sprintf("udp of IPv6 to %v", to), c: conn, udp: true}
	if err := c.talk(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// clients are four of each kind, two at each server. Those that end with their
// backend come apart.
func (s *scene) clients() (end, stay []*client) {
	s.t.Helper()
	host, pod := s.Director, s.Clients()[0].Namespace
	for _, vip := range vips {
		reset := netip.AddrPortFrom(vip.Addr(), resetPort)
		for range 4 {
			end = append(end, s.client(host, "udp", vip), s.client(host, "tcp", reset), s.client(pod, "tcp", reset))
			stay = append(stay, s.client(host, "tcp", vip), s.client(pod, "tcp", vip))
		}
	}
	for range 4 {
		end = append(end, s.mapped(vip4))
	}
	return end, stay
}

// wantEnded wants those of end that are at a server to be aborted, and all others
// to go on. It returns the others.
func (s *scene) wantEnded(end, stay []*client, server string) []*client {
	s.t.Helper()
	ended := 0
	for _, c := range end {
		if c.server == server {
			c.abort(s.t)
			ended++
		} else {
			stay = append(stay, c)
		}
	}
	if ended != len(end)/2 {
		s.t.Errorf("%d of %d were at %s, want half of them", ended, len(end), server)
	}
	for _, c := range stay {
		was := c.server
		if err := c.talk(); err != nil || c.server != was {
			s.t.Errorf("%s: answered by %s, %v, want %s", c.what, c.server, err, was)
		}
	}
	return stay
}

func lostScene(t *testing.T) *scene {
	t.Helper()
	s := ledScene(t, "all")
	s.edit(s.lostRules(s.Servers()))
	s.wantLoad("before there are clients", 0)
	return s
}

func TestSocketsEndWhenTheirBackendLeaves(t *testing.T) {
	s := lostScene(t)
	end, stay := s.clients()
	s.wantLoad("all", len(end)+len(stay))
	s.write(s.lostRules(s.Servers()[:1]))
	s.wantEnded(end, stay, "server1")
	s.wantLoad("ended ones count until they are closed", len(end)+len(stay))
	for _, c := range end {
		if c.server != "server1" {
			continue
		}
		c.c.Close()
		if again := s.client(s.Director, "udp", vip4); again.server != "server0" {
			t.Errorf("a new socket goes to %s", again.server)
		} else {
			again.c.Close()
		}
	}
	s.wantLoad("those closed", len(end)/2+len(stay))
}

func TestSocketsEndWhenTheirBackendIsUnhealthy(t *testing.T) {
	s := lostScene(t)
	end, stay := s.clients()
	s.write(s.lostRules(s.Servers(), s.Servers()[0]))
	s.wantEnded(end, stay, "server0")
}

// What leaves while no daemon is there is found by the next one.
func TestSocketsEndWhenTheirBackendLeftWithTheDaemonDead(t *testing.T) {
	s := lostScene(t)
	end, stay := s.clients()
	s.kill()
	s.write(s.lostRules(s.Servers()[1:]))
	for _, c := range append(slices.Clone(end), stay...) {
		if err := c.talk(); err != nil {
			t.Errorf("%s with the daemon dead: %v", c.what, err)
		}
	}
	s.start()
	s.wantEnded(end, stay, "server0")
}

// A service that is gone has nobody else to ask: its sockets run on until it comes
// again without their backend.
func TestSocketsOfAServiceThatIsGoneRunOn(t *testing.T) {
	s := lostScene(t)
	var all []*client
	for range 4 {
		all = append(all, s.client(s.Director, "udp", vip4))
	}
	marker := netip.AddrPortFrom(netlab.VIP6, 99)
	s.edit(textAt([]netip.AddrPort{marker}, "rr", s.Servers()...))
	// what is ended by the same walk tells when that was
	other := s.client(s.Director, "udp", marker)
	s.write(textAt([]netip.AddrPort{marker}, "rr"))
	other.abort(t)
	for _, c := range all {
		if err := c.talk(); err != nil {
			t.Errorf("%s: %v, want it to run on", c.what, err)
		}
	}
	alone, _, _ := strings.Cut(s.lostRules(s.Servers()[:1]), "- name: port90") // which would be a reason to look
	s.write(alone)
	s.wantEnded(all, nil, "server1")
}

// Of a backend that left while the configuration was lost nobody knows any more.
func TestSocketsEndWhenTheirBackendIsForgotten(t *testing.T) {
	s := lostScene(t)
	var all []*client
	for range 4 {
		all = append(all, s.client(s.Director, "udp", vip4))
	}
	s.kill()
	if err := os.Remove(filepath.Join(s.pins, "config")); err != nil {
		t.Fatal(err)
	}
	s.write(s.lostRules(s.Servers()[:1]))
	s.start()
	s.wantEnded(all, nil, "server1")
	for _, c := range all {
		c.c.Close()
	}
	s.wantLoad("all closed", 0)
}

// A daemon that may not enter other namespaces ends the sockets of its own, and says
// once what is missing.
func TestSocketsOfNamespacesThatMayNotBeEnteredStay(t *testing.T) {
	s := lostScene(t)
	s.kill()
	s.under = bounded(0, unitCapabilities(t)...)
	s.start()
	for i := range 3 { // at the last, what was to be said of the others was said
		s.onlyAt(i % 2)
		host, pod := s.client(s.Director, "udp", vip4), s.client(s.Clients()[0].Namespace, "tcp", netip.AddrPortFrom(netlab.VIP4, resetPort))
		s.onlyAt(1 - i%2)
		host.abort(t)
		s.eventually("the log says what is missing", func() error {
			if n := count(s.logText(), "needs CAP_SYS_ADMIN"); n != 1 {
				return fmt.Errorf("%d lines", n)
			}
			return nil
		})
		if err := pod.talk(); err != nil {
			t.Errorf("%s: %v, want it to go on", pod.what, err)
		}
	}
}

// onlyAt has one server, and waits until it is that.
func (s *scene) onlyAt(server int) {
	s.t.Helper()
	s.write(s.lostRules(s.Servers()[server:][:1]))
	s.eventually("one server is left", func() error {
		for range 2 {
			c := s.client(s.Director, "udp", vip4)
			c.c.Close()
			if c.server != fmt.Sprintf("server%d", server) {
				return fmt.Errorf("%s answers", c.server)
			}
		}
		return nil
	})
}
