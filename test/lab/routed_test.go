// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// routed is a scene with a router on either side of the director: client,
// router, director, router, server. Nobody limits the rate of ICMP errors.
type routed struct {
	*scene
	client, server             *netlab.Node
	clientRouter, serverRouter *netlab.Router
}

// newRouted starts the daemon with the rules, of which %4 and %6 are the
// server's addresses, and more flags.
func newRouted(t *testing.T, rules string, args ...string) *routed {
	t.Helper()
	return prepared(t, rules, func(*routed) {}, args...)
}

// prepared is newRouted after something was done before the daemon starts.
func prepared(t *testing.T, rules string, prepare func(*routed), args ...string) *routed {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	r := &routed{scene: s, client: s.Clients()[0], server: s.Servers()[0]}
	var err error
	if r.clientRouter, err = s.AddRouter(r.client); err != nil {
		t.Fatal(err)
	}
	if r.serverRouter, err = s.AddRouter(r.server); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*netlab.Namespace{r.client.Namespace, r.clientRouter.Namespace, s.Director, r.serverRouter.Namespace, r.server.Namespace} {
		// the mask, as a limit of 0 would use up what unreachable routes may say
		for _, name := range []string{"net/ipv4/icmp_ratemask", "net/ipv6/icmp/ratelimit"} {
			if err := n.SetSysctl(name, "0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	prepare(r)
	s.args = args
	s.write(serverIs(r.server).Replace(rules))
	s.start()
	return r
}

// serverIs puts a node's addresses in the place of %4 and %6.
func serverIs(n *netlab.Node) *strings.Replacer {
	return strings.NewReplacer("%4", n.V4.String(), "%6", n.V6.String())
}

// plain serves the ports of the VIPs given, TCP and UDP, from the server's
// 8000 ports above them.
func plain(ports ...uint16) string {
	var b strings.Builder
	for _, vip := range vips {
		server := "%4"
		if vip.Addr().Is6() {
			server = "[%6]"
		}
		for _, port := range ports {
			for _, proto := range []string{"-t", "-u"} {
				at := netip.AddrPortFrom(vip.Addr(), port)
				fmt.Fprintf(&b, "-A %s %s -s rr\n-a %s %s -r %s:%d -m -w 1\n", proto, at, proto, at, server, 8000+port)
			}
		}
	}
	return b.String()
}

// socket is a bare socket: package net hides errors that the kernel reports
// and sockets that could not connect.
type socket struct {
	t  *testing.T
	fd int
	v6 bool
}

// open makes a socket of unix.SOCK_STREAM or SOCK_DGRAM that keeps the ICMP
// errors it gets (ip(7), IP_RECVERR) and waits patiently.
func open(t *testing.T, n *netlab.Namespace, kind int, v6 bool) *socket {
	t.Helper()
	return openProtocol(t, n, kind, 0, v6)
}

func openProtocol(t *testing.T, n *netlab.Namespace, kind, protocol int, v6 bool) *socket {
	t.Helper()
	s := &socket{t: t, v6: v6}
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	err := n.Do(func() (err error) {
		s.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &wait); err != nil {
			t.Fatal(err)
		}
	}
	s.set(unix.IPPROTO_IP, unix.IP_RECVERR, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	return s
}

func (s *socket) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

// set sets the option of the socket's family.
func (s *socket) set(level4, option4, level6, option6, value int) {
	s.t.Helper()
	level, option := level4, option4
	if s.v6 {
		level, option = level6, option6
	}
	if err := unix.SetsockoptInt(s.fd, level, option, value); err != nil {
		s.t.Fatalf("set option %d of level %d: %v", option, level, err)
	}
}

// hops sets how many routers a packet of the socket's may meet, less one.
func (s *socket) hops(n int) {
	s.t.Helper()
	s.set(unix.IPPROTO_IP, unix.IP_TTL, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n)
}

// whole makes the socket send packets as they are or not at all.
func (s *socket) whole() {
	s.t.Helper()
	s.set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
}

// mtu is what the kernel knows of the path to the socket's peer.
func (s *socket) mtu() int {
	s.t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if s.v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	n, err := unix.GetsockoptInt(s.fd, level, option)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// insist calls f again when a signal broke into it, as Go's own do: the kernel
// does not by itself for a socket whose waits have a limit (signal(7)). A connect
// goes on where it was.
func insist(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// connect returns what connect(2) does.
func (s *socket) connect(to netip.AddrPort) error {
	return insist(func() error { return unix.Connect(s.fd, sockaddr(to)) })
}

func (s *socket) bind(at netip.AddrPort) {
	s.t.Helper()
	if err := unix.Bind(s.fd, sockaddr(at)); err != nil {
		s.t.Fatalf("bind to %v: %v", at, err)
	}
}

// local returns the socket's own address.
func (s *socket) local() netip.AddrPort {
	s.t.Helper()
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		s.t.Fatal(err)
	}
	return addrPort(sa)
}

// send sends to the peer.
func (s *socket) send(b []byte) error {
	return insist(func() error {
		_, err := unix.Write(s.fd, b)
		return err
	})
}

func (s *socket) sendTo(b []byte, to netip.AddrPort) error {
	return insist(func() error { return unix.Sendto(s.fd, b, 0, sockaddr(to)) })
}

// receive returns the next datagram, or what came of a stream, and from whom.
func (s *socket) receive() ([]byte, netip.AddrPort, error) {
	buf := make([]byte, 1<<16)
	var n int
	var from unix.Sockaddr
	err := insist(func() (err error) {
		n, from, err = unix.Recvfrom(s.fd, buf, 0)
		return err
	})
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	return buf[:n], addrPort(from), nil
}

// icmpError is an ICMP error as a socket gets it: sock_extended_err of
// linux/errqueue.h.
type icmpError struct {
	errno      unix.Errno
	kind, code uint8
	info       uint32
	from       netip.Addr     // who sent it
	about      netip.AddrPort // whereto the packet went that it quotes
	quoted     string         // the payload of it
}

// failure waits for the next ICMP error of the socket.
func (s *socket) failure() (icmpError, error) {
	data, control := make([]byte, 2048), make([]byte, 512)
	deadline := time.Now().Add(patience)
	for {
		n, oobn, _, about, err := unix.Recvmsg(s.fd, data, control, unix.MSG_ERRQUEUE)
		if err == nil {
			e, err := readError(control[:oobn])
			e.about, e.quoted = addrPort(about), string(data[:n])
			return e, err
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return icmpError{}, err
		}
		if time.Now().After(deadline) {
			return icmpError{}, errors.New("no ICMP error came")
		}
		// an error wakes poll whatever is asked for
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd)}}, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return icmpError{}, err
		}
	}
}

func readError(control []byte) (e icmpError, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return e, err
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 16+8 {
			continue
		}
		e.errno = unix.Errno(binary.NativeEndian.Uint32(m.Data))
		e.kind, e.code, e.info = m.Data[5], m.Data[6], binary.NativeEndian.Uint32(m.Data[8:])
		if v4 { // sockaddr_in
			e.from = netip.AddrFrom4([4]byte(m.Data[16+4:]))
		} else { // sockaddr_in6
			e.from = netip.AddrFrom16([16]byte(m.Data[16+8:]))
		}
		return e, nil
	}
	return e, fmt.Errorf("no error in %d control messages", len(messages))
}

// soon is the deadline of what is to happen.
func soon() time.Time { return time.Now().Add(patience) }
