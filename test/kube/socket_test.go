// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// socket is a UDP socket that is kept for long.
type socket struct {
	e      *e2e
	what   string
	client client
	to     netip.AddrPort
	sent   int
	conn   net.Conn // nil: it was closed
	// open makes it again, with the same port, when it failed. nil: it is kept whatever
	// happens.
	open func() (net.Conn, error)
}

// udpSocket opens one with a port of its own, and connects it.
func (e *e2e) udpSocket(c client, to netip.AddrPort) *socket {
	s := e.reopened(c, to)
	var err error
	s.conn, err = s.open()
	e.try(err)
	s.open = nil
	return s
}

// reopened is udpSocket for clients whose socket is connected to a backend, not to the
// VIP: like the suite's, they make another after an error.
func (e *e2e) reopened(c client, to netip.AddrPort) *socket {
	d := &net.Dialer{LocalAddr: &net.UDPAddr{Port: int(e.port())}}
	s := &socket{e: e, what: fmt.Sprintf("the socket %s of %s", d.LocalAddr, c.addr(e.v6)), client: c, to: to}
	s.open = func() (net.Conn, error) { return c.DialWith(context.Background(), d, "udp", to.String()) }
	e.stops = append(e.stops, func() {
		if s.conn != nil {
			s.conn.Close()
		}
	})
	return s
}

// unconnected is udpSocket that names whom it sends to with each datagram.
func (e *e2e) unconnected(h *host, to netip.AddrPort) *socket {
	conn, err := h.ListenPacket(context.Background(), "udp", ":0")
	e.try(err)
	e.stops = append(e.stops, func() { conn.Close() })
	what := fmt.Sprintf("the unconnected socket %s", conn.LocalAddr())
	return &socket{e: e, what: what, client: h, to: to, conn: toOne{conn, net.UDPAddrFromAddrPort(to)}}
}

// toOne is an unconnected socket that talks to one address.
type toOne struct {
	net.PacketConn
	to *net.UDPAddr
}

func (c toOne) RemoteAddr() net.Addr { return c.to }

func (c toOne) Write(b []byte) (int, error) { return c.WriteTo(b, c.to) }

// Read fails if it comes from elsewhere.
func (c toOne) Read(b []byte) (int, error) {
	n, from, err := c.ReadFrom(b)
	if err == nil && !from.(*net.UDPAddr).IP.Equal(c.to.IP) {
		err = fmt.Errorf("the answer comes from %s, not from %s", from, c.to)
	}
	return n, err
}

// ask sends a datagram like no other before and returns who answers it.
func (s *socket) ask() (pod string, err error) {
	if s.conn == nil {
		if s.conn, err = s.open(); err != nil {
			s.conn = nil
			return "", err
		}
	}
	pod, err = s.exchange()
	if err != nil && s.open != nil {
		err = errors.Join(err, s.conn.Close())
		s.conn = nil
	}
	return pod, err
}

func (s *socket) exchange() (pod string, err error) {
	if err := s.conn.SetDeadline(time.Now().Add(oneTry)); err != nil {
		return "", err
	}
	s.sent++
	return echoed(s.conn, fmt.Appendf(nil, "%d", s.sent))
}

// reaches waits until one of these pods answers.
func (s *socket) reaches(pods ...*pod) {
	s.e.eventually(fmt.Sprintf("%s reaches %v", s.what, names(pods)), func() error {
		pod, err := s.ask()
		if err == nil && !slices.Contains(names(pods), pod) {
			return fmt.Errorf("%s answers", pod)
		}
		return err
	})
}
