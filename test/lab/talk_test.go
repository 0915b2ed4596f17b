// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// seenSize is how long the part of an answer is that says whom the server saw.
const seenSize = 64

// reveal answers on both addresses of the node by the address that it sees,
// and echoes.
func (s *scene) reveal(n *netlab.Node, port uint16) {
	s.t.Helper()
	for _, v6 := range []bool{false, true} {
		serveAt(s.t, n.Namespace, netip.AddrPortFrom(n.Addr(v6), port), func(peer net.Addr) string {
			return fmt.Sprintf("%-*s", seenSize, peer)
		})
	}
}

// talk is a TCP connection, or a connected UDP socket, to a server that
// reveals whom it sees.
type talk struct {
	net.Conn
	seen netip.AddrPort
}

// call begins a talk, from a port of the caller's choice; 0: any.
func call(from *netlab.Node, network string, port uint16, to netip.AddrPort) (*talk, error) {
	return callWithin(patience, from, network, port, to)
}

func callWithin(limit time.Duration, from *netlab.Node, network string, port uint16, to netip.AddrPort) (*talk, error) {
	d := &net.Dialer{Timeout: limit}
	local := netip.AddrPortFrom(from.Addr(to.Addr().Is6()), port)
	d.LocalAddr = net.TCPAddrFromAddrPort(local)
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	d.Control = func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(cerr, err)
	}
	c, err := from.DialWith(context.Background(), d, network, to.String())
	if err != nil {
		return nil, err
	}
	tk := &talk{Conn: c}
	if err := tk.greet(limit); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s to %s: %w", network, to, err)
	}
	return tk, nil
}

func (tk *talk) greet(limit time.Duration) error {
	if err := tk.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	buf := make([]byte, seenSize)
	if _, ok := tk.Conn.(*net.UDPConn); ok {
		if _, err := tk.Write(nil); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(tk, buf); err != nil {
		return fmt.Errorf("read whom the server sees: %w", err)
	}
	var err error
	tk.seen, err = netip.ParseAddrPort(strings.TrimSpace(string(buf)))
	return err
}

// exchange sends n random bytes and wants them back.
func (tk *talk) exchange(n int) error {
	if err := tk.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	b := random(n)
	if _, ok := tk.Conn.(*net.UDPConn); !ok {
		return echo(tk, b)
	}
	buf := make([]byte, 2048)
	for at := 0; at < n; at += 1024 {
		part := b[at:min(at+1024, n)]
		if _, err := tk.Write(part); err != nil {
			return err
		}
		k, err := tk.Read(buf)
		if err != nil {
			return fmt.Errorf("read the echo of byte %d: %w", at, err)
		}
		if k < seenSize || !bytes.Equal(buf[seenSize:k], part) {
			return errors.New("the echo differs")
		}
		if who := strings.TrimSpace(string(buf[:seenSize])); who != tk.seen.String() {
			return fmt.Errorf("the server sees %s, before %s", who, tk.seen)
		}
	}
	return nil
}
