// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// header is what a socket can be made to put between the IP header and its
// own, and to show of what it receives.
type header struct {
	name         string
	send, show   int // options of setsockopt
	bytes        []byte
	ignore, tail int // bytes at the start, and from where on, that change on the way
}

// An option for experiments, which who does not know it skips (RFC 4727); and
// IPv4's record route, which every router writes into.
var (
	hopByHop    = header{"hop-by-hop options", unix.IPV6_HOPOPTS, unix.IPV6_RECVHOPOPTS, []byte{0, 1, 0x1e, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 1, 16}
	destination = header{"destination options", unix.IPV6_DSTOPTS, unix.IPV6_RECVDSTOPTS, []byte{0, 0, 0x1e, 4, 1, 2, 3, 4}, 1, 8}
	recordRoute = header{"record route", unix.IP_OPTIONS, unix.IP_RECVOPTS, slices.Concat([]byte{1, 7, 39 - 4, 4}, make([]byte, 36-4)), 0, 3}
	nops        = header{"no operation", unix.IP_OPTIONS, unix.IP_RECVOPTS, []byte{1, 1, 1, 1}, 0, 4}
)

// option sets an option of the socket's IP layer to bytes.
func (s *socket) option(option int, b []byte) {
	s.t.Helper()
	level := unix.IPPROTO_IP
	if s.v6 {
		level = unix.IPPROTO_IPV6
	}
	if err := unix.SetsockoptString(s.fd, level, option, string(b)); err != nil {
		s.t.Fatalf("set option %d: %v", option, err)
	}
}

// with receives a datagram and the headers that the socket is to show.
func (s *socket) with() (b []byte, from netip.AddrPort, headers [][]byte, err error) {
	data, control := make([]byte, 1<<16), make([]byte, 1024)
	var n, oobn int
	var sa unix.Sockaddr
	err = insist(func() (err error) {
		n, oobn, _, sa, err = unix.Recvmsg(s.fd, data, control, 0)
		return err
	})
	if err != nil {
		return nil, from, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	for _, m := range messages {
		headers = append(headers, m.Data)
	}
	return data[:n], addrPort(sa), headers, err
}

func TestHeadersBetweenAreFollowed(t *testing.T) {
	for _, masquerade := range []string{"never", "always"} {
		r := newRouted(t, both(masquerade))
		// a router's stack takes destination options for a TCP header when it
		// measures an aggregate of segments, and may find it too big
		for _, f := range segments {
			if err := r.client.SetOffload("eth0", f, false); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			v6      bool
			headers []header
		}{
			{false, []header{nops}},
			{false, []header{recordRoute}},
			{true, []header{hopByHop}},
			{true, []header{destination}},
			{true, []header{hopByHop, destination}},
		} {
			t.Run(fmt.Sprintf("masquerade %s/v6=%v/%s", masquerade, tc.v6, called(tc.headers)), func(t *testing.T) {
				r.udpWith(t, of(tc.v6, vips), tc.headers)
				r.tcpWith(t, of(tc.v6, vips), tc.headers)
			})
		}
		if drops := r.dropped(); len(drops) != 0 {
			t.Errorf("drops %v", drops)
		}
	}
}

func called(headers []header) (s string) {
	for _, h := range headers {
		s += h.name + " "
	}
	return s
}

// udpWith sends datagrams with the headers there and back, whole and in
// fragments, and wants the headers to arrive with them.
func (r *routed) udpWith(t *testing.T, vip netip.AddrPort, headers []header) {
	t.Helper()
	v6 := vip.Addr().Is6()
	server := open(t, r.server.Namespace, unix.SOCK_DGRAM, v6)
	defer server.close()
	server.bind(netip.AddrPortFrom(r.server.Addr(v6), 8080))
	client := open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	defer client.close()
	if err := client.connect(vip); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*socket{client, server} {
		for _, h := range headers {
			s.option(h.send, h.bytes)
			s.option(h.show, []byte{1, 0, 0, 0})
		}
	}
	for _, n := range []int{100, 5000} {
		b := random(n)
		if err := client.send(b); err != nil {
			t.Fatal(err)
		}
		got, from, shown, err := server.with()
		wantWith(t, fmt.Sprintf("%d bytes there", n), headers, shown)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes there: %d bytes from %v, %v", n, len(got), from, err)
			return
		}
		if err := server.sendTo(b, from); err != nil {
			t.Fatal(err)
		}
		got, from, shown, err = client.with()
		wantWith(t, fmt.Sprintf("%d bytes back", n), headers, shown)
		if err != nil || from != vip || !bytes.Equal(got, b) {
			t.Errorf("%d bytes back: %d bytes from %v, %v", n, len(got), from, err)
			return
		}
	}
}

func wantWith(t *testing.T, what string, headers []header, shown [][]byte) {
	t.Helper()
	for _, h := range headers {
		same := func(got []byte) bool {
			return len(got) == len(h.bytes) && bytes.Equal(got[h.ignore:h.tail], h.bytes[h.ignore:h.tail])
		}
		if !slices.ContainsFunc(shown, same) {
			t.Errorf("%s: no %s % x in % x", what, h.name, h.bytes, shown)
		}
	}
}

// tcpWith sends 1 MiB each way, the client's segments with the headers.
func (r *routed) tcpWith(t *testing.T, vip netip.AddrPort, headers []header) {
	t.Helper()
	v6 := vip.Addr().Is6()
	stop, err := r.server.Serve(netip.AddrPortFrom(r.server.Addr(v6), 8080), named("s"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	s := open(t, r.client.Namespace, unix.SOCK_STREAM, v6)
	for _, h := range headers {
		s.option(h.send, h.bytes)
	}
	if err := s.connect(vip); err != nil {
		t.Error(err)
		return
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(s.fd), "connection")
	c, err := net.FileConn(f) // duplicates
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.fd = -1
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 8)
	if _, err := c.Read(greeting); err != nil {
		t.Error(err)
		return
	}
	if err := patient(c, random(1<<20)); err != nil {
		t.Error(err)
	}
}
