// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// rawSocket is a socket by its system calls, where package net would hide what a test
// is about. Those that wait do so for as long as tests are patient.
type rawSocket struct {
	t      testing.TB
	fd     int
	domain int
}

// rawSocketIn makes one in a namespace, and in its control group. It is closed with
// the test.
func rawSocketIn(t testing.TB, n *netlab.Namespace, domain, kind, proto int) *rawSocket {
	t.Helper()
	s := &rawSocket{t: t, domain: domain}
	err := n.Do(func() (err error) {
		if s.fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto); err != nil {
			return err
		}
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		return errors.Join(unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait), unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// domainOf is that of sockets for an address.
func domainOf(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (s *rawSocket) close() {
	if s.fd >= 0 {
		if err := unix.Close(s.fd); err != nil {
			s.t.Error(err)
		}
		s.fd = -1
	}
}

// address writes an address as sockets of the domain want it: IPv4's mapped.
func (s *rawSocket) address(a netip.AddrPort) unix.Sockaddr {
	if s.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().Unmap().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// told reads an address; one that is mapped stays so.
func told(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// as is what a socket of the domain is told of an address.
func (s *rawSocket) as(a netip.AddrPort) netip.AddrPort {
	if s.domain == unix.AF_INET6 {
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	return a
}

func (s *rawSocket) connect(to netip.AddrPort) error {
	return insist(func() error { return unix.Connect(s.fd, s.address(to)) })
}

// must connects.
func (s *rawSocket) must(to netip.AddrPort) {
	s.t.Helper()
	if err := s.connect(to); err != nil {
		s.t.Fatalf("connect to %s: %v", to, err)
	}
}

// disconnect is connect(2) with AF_UNSPEC, which package unix has no address for.
func (s *rawSocket) disconnect() {
	s.t.Helper()
	if err := connectUnspecified(s.fd); err != nil {
		s.t.Fatalf("disconnect: %v", err)
	}
}

func (s *rawSocket) send(b string, to netip.AddrPort) error {
	return insist(func() error { return unix.Sendto(s.fd, []byte(b), 0, s.address(to)) })
}

func (s *rawSocket) write(b string) {
	s.t.Helper()
	err := insist(func() error {
		_, err := unix.Write(s.fd, []byte(b))
		return err
	})
	if err != nil {
		s.t.Fatalf("write: %v", err)
	}
}

// receive reads a datagram: who it says that answered, the rest, and whom the kernel
// says it is from.
func (s *rawSocket) receive() (name, rest string, from netip.AddrPort) {
	s.t.Helper()
	buf := make([]byte, 256)
	var n int
	var addr unix.Sockaddr
	err := insist(func() (err error) {
		n, addr, err = unix.Recvfrom(s.fd, buf, 0)
		return err
	})
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	name, rest = string(buf[:min(n, nameSize)]), string(buf[min(n, nameSize):n])
	return strings.TrimSpace(name), rest, told(addr)
}

// asks sends a datagram to a VIP and returns who answered, which is to come from it.
func (s *rawSocket) asks(vip netip.AddrPort) string {
	s.t.Helper()
	if err := s.send("?", vip); err != nil {
		s.t.Fatalf("send to %s: %v", vip, err)
	}
	name, rest, from := s.receive()
	if rest != "?" || from != s.as(vip) {
		s.t.Fatalf("the answer %q is from %s, want the question's, from %s", rest, from, s.as(vip))
	}
	return name
}

// greeted reads the name with which a server begins a connection.
func (s *rawSocket) greeted() string {
	s.t.Helper()
	var all []byte
	for len(all) < nameSize {
		buf := make([]byte, nameSize-len(all))
		n := 0
		err := insist(func() (err error) {
			n, err = unix.Read(s.fd, buf)
			return err
		})
		if err != nil || n == 0 {
			s.t.Fatalf("read a greeting: %d bytes, %v", n, err)
		}
		all = append(all, buf[:n]...)
	}
	return strings.TrimSpace(string(all))
}

// wantPeer wants the kernel to say that this is whom the socket is connected to.
func (s *rawSocket) wantPeer(want netip.AddrPort) {
	s.t.Helper()
	a, err := unix.Getpeername(s.fd)
	if err != nil {
		s.t.Fatalf("getpeername: %v", err)
	}
	if got := told(a); got != s.as(want) {
		s.t.Errorf("the peer is %s, want %s", got, s.as(want))
	}
}

// connected waits until a connect that did not wait is done.
func (s *rawSocket) connected() error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	n := 0
	err := insist(func() (err error) {
		n, err = unix.Poll(fds, int(patience.Milliseconds()))
		return err
	})
	if n != 1 || err != nil {
		return fmt.Errorf("wait for the connection: %d, %w", n, err)
	}
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// held sums what backends have, by their service's protocol and address: flows and
// sockets.
func (s *scene) held() (total int, byBackend map[string]int) {
	s.t.Helper()
	byBackend = make(map[string]int)
	for _, b := range s.items("backends") {
		n := int(b["active"].(float64)) + int(b["inactive"].(float64))
		total += n
		byBackend[fmt.Sprint(b["service"], " ", b["address"])] = n
	}
	return total, byBackend
}

// holds waits until all backends together have so many.
func (s *scene) holds(want int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("backends have %d", want), func() error {
		if n, all := s.held(); n != want {
			return fmt.Errorf("they have %d: %v", n, all)
		}
		return nil
	})
}

func connectUnspecified(fd int) error {
	addr := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr))
	if errno != 0 {
		return errno
	}
	return nil
}

func netAddr(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }
