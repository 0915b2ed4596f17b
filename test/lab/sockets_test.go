// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// ledScene is a lab whose director and clients are in a control group, of which
// sockets are led: a word of --socket-lb says whose.
func ledScene(t *testing.T, whose string) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "sockets", Clients: 1, Servers: 2, VIPs: addrsOf(vips)})
	s.lead(whose, s.Director, s.Clients()[0].Namespace)
	for i, n := range s.Servers() {
		s.serve(n, fmt.Sprintf("server%d", i), 8080)
	}
	s.write(s.text(s.Servers()...))
	s.start()
	return s
}

// lead puts namespaces in a control group whose sockets are led.
func (s *scene) lead(whose string, namespaces ...*netlab.Namespace) {
	s.t.Helper()
	var err error
	if s.group, err = s.AddCgroup(); err != nil {
		s.t.Fatal(err)
	}
	s.sockets = whose
	for _, n := range namespaces {
		n.SetCgroup(s.group)
	}
}

func addrsOf(list []netip.AddrPort) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, a.Addr())
	}
	return out
}

// A process is led to a backend when it connects, and is told the VIP when it asks.
func TestSocketsAreLed(t *testing.T) {
	s := ledScene(t, "all")
	for _, from := range []*netlab.Namespace{s.Director, s.Clients()[0].Namespace} {
		for _, vip := range vips {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(from.Name+" "+network+" "+vip.String(), func(t *testing.T) {
					seen := map[string]bool{}
					for range 4 {
						name, peer, err := askBy(from, network, vip)
						if err != nil {
							t.Fatal(err)
						}
						if peer != vip.String() {
							t.Errorf("the peer is %s, want %s", peer, vip)
						}
						seen[name] = true
					}
					if len(seen) != 2 {
						t.Errorf("answers came from %v, want both servers", seen)
					}
				})
			}
		}
	}
}

// askBy makes a connection, sends and reads, and returns who answered and who the
// socket says its peer is.
func askBy(from *netlab.Namespace, network string, to netip.AddrPort) (name, peer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, network, to.String())
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", "", err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", "", err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	var raw syscall.Sockaddr
	sc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return "", "", err
	}
	err = errors.Join(sc.Control(func(fd uintptr) { raw, err = syscall.Getpeername(int(fd)) }), err)
	if err != nil {
		return "", "", err
	}
	switch a := raw.(type) {
	case *syscall.SockaddrInet4:
		peer = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *syscall.SockaddrInet6:
		peer = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	}
	return strings.TrimSpace(string(buf[:min(n, nameSize)])), peer, nil
}
