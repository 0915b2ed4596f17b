// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"net"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// says is a socket of UDP that is connected to the VIP, for as long as the test.
func (s *scene) says(from *netlab.Namespace) net.Conn {
	s.t.Helper()
	c, err := from.Dial(s.t.Context(), "udp", vip4.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// wantFrom wants the next datagram of a socket to be answered by this server.
func (s *scene) wantFrom(c net.Conn, when, server string) {
	s.t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Write([]byte("?")); err != nil {
		s.t.Fatalf("%s: %v", when, err)
	}
	who := make([]byte, nameSize)
	if n, err := c.Read(who); err != nil || string(who[:n])[:len(server)] != server {
		s.t.Errorf("%s: %q, %v, want %s", when, who, err, server)
	}
}

// TestTakeoverOfDatagrams: the next datagram of a client is waggle's; a socket of the
// machine itself that was connected before stays with kube-proxy's rules, and may
// connect again.
func TestTakeoverOfDatagrams(t *testing.T) {
	s, _ := node(t, proxyShapes["nftables"])
	s.lead("host", s.Director)
	s.director("nft", "add chain ip kube-proxy service-udp { meta l4proto udp dnat to 198.19.1.2:8080; }")
	s.director("nft", "add element ip kube-proxy service-ips { 198.18.255.10 . udp . 80 : goto service-udp }")
	outside, own := s.says(s.Clients()[0].Namespace), s.says(s.Director)
	s.wantFrom(outside, "a client, before", "s1")
	s.wantFrom(own, "the machine, before", "s1")
	s.start()
	s.wantFrom(outside, "a client, by waggle", "s2")
	s.wantFrom(own, "the machine, by the socket of before", "s1")
	s.wantFrom(s.says(s.Director), "the machine, by another", "s2")
	if _, refused := s.waggleHere("cleanup", "--kube-proxy"); refused != "" {
		t.Fatalf("datagrams keep the rules: %s", refused)
	}
	s.wantFrom(outside, "a client, without the rules", "s2")
	s.wantFrom(s.says(s.Director), "the machine, without the rules", "s2")
	s.comesBack(proxyShapes["nftables"])
}
