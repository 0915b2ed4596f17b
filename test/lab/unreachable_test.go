// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// neighbourUnreachable is what a client hears that sent a datagram for which
// nobody answered ARP, or neighbour solicitations.
func neighbourUnreachable(v6 bool) icmpError {
	if v6 {
		return icmpError{errno: unix.EHOSTUNREACH, kind: 1, code: 3}
	}
	return hostUnreachable(v6)
}

// absent is an address of the server's subnet that nobody has, yet.
func absent(n *netlab.Node, v6 bool) netip.Addr {
	b := n.Addr(v6).AsSlice()
	b[len(b)-1] = 77
	a, _ := netip.AddrFromSlice(b)
	return a
}

// TestABackendThatIsNoNeighbour has two backends in one subnet, of which one is
// not there. Clients that are sent to it hear so when the kernel has asked three
// times, and hear it from the VIP; those of the other are served. When it comes,
// it serves.
func TestABackendThatIsNoNeighbour(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	client, server := s.Clients()[0], s.Servers()[0]
	s.serve(server, "there", 8080)
	var rules strings.Builder
	for _, vip := range vips {
		v6 := vip.Addr().Is6()
		for _, option := range []string{"-t", "-u"} {
			fmt.Fprintf(&rules, "-A %s %s -s rr\n", option, vip)
			for _, a := range []netip.Addr{server.Addr(v6), absent(server, v6)} {
				fmt.Fprintf(&rules, "-a %s %s -r %s -m -w 1\n", option, vip, netip.AddrPortFrom(a, 8080))
			}
		}
	}
	s.write(rules.String())
	s.start()
	var all sync.WaitGroup
	for _, vip := range vips {
		v6 := vip.Addr().Is6()
		for range 2 {
			c := open(t, client.Namespace, unix.SOCK_DGRAM, v6)
			if err := errors.Join(c.connect(vip), c.send([]byte("hello"))); err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				b, _, err := c.receive()
				if err == nil && string(b[:5]) == "there" {
					return
				}
				if !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("%v: received %q, %v; want no route to host", vip, b, err)
				}
				wantFailure(t, vip.String(), c, neighbourUnreachable(v6).as(vip.Addr(), vip, "hello"))
			})
		}
		answers := make(chan error, 4)
		for range cap(answers) {
			all.Go(func() {
				conn, _, err := connect(client, vip)
				if err == nil {
					conn.Close()
				}
				answers <- err
			})
		}
		all.Go(func() {
			lost := 0
			for range cap(answers) {
				if err := <-answers; errors.Is(err, syscall.EHOSTUNREACH) {
					lost++
				} else if err != nil {
					t.Errorf("%v: %v", vip, err)
				}
			}
			if lost != cap(answers)/2 {
				t.Errorf("%v: %d of %d connections heard that there is no route to the host, want those to the backend that is not there", vip, lost, cap(answers))
			}
		})
	}
	all.Wait()
	s.wantDrops("") // the kernel counts them: ip -s neigh
	for _, b := range s.items("backends") {
		at := netip.MustParseAddrPort(b["address"].(string)).Addr()
		if there := at == server.V4 || at == server.V6; b["connections"] == 0.0 || (b["outPackets"] != 0.0) != there {
			t.Errorf("%v of %v: %v connections, %v packets came back", at, b["service"], b["connections"], b["outPackets"])
		}
	}
	for _, v6 := range []bool{false, true} {
		a := absent(server, v6)
		if err := server.AddAddr("eth0", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
		serveAt(t, server.Namespace, netip.AddrPortFrom(a, 8080), named("came"))
		vip := of(v6, vips)
		s.eventually("the backend that came serves", func() error {
			conn, who, err := connect(client, vip)
			if err != nil {
				return err
			}
			conn.Close()
			if who != "came" {
				return fmt.Errorf("%v answered", who)
			}
			return nil
		})
	}
}

// TestConnectionsToABackendWithoutARoute: a router that has no way to the backend
// says so, and the client's connect fails, at the latest with its second SYN; the
// director itself may be such a router.
func TestConnectionsToABackendWithoutARoute(t *testing.T) {
	r := newRouted(t, plain(80))
	for _, at := range []*netlab.Namespace{r.Director, r.serverRouter.Namespace} {
		for _, vip := range vips {
			v6 := vip.Addr().Is6()
			mend, err := at.Refuse(r.server.Addr(v6))
			if err != nil {
				t.Fatal(err)
			}
			c := open(t, r.client.Namespace, unix.SOCK_STREAM, v6)
			if err := c.connect(vip); !errors.Is(err, hostUnreachable(v6).errno) {
				t.Errorf("%v, no way at %s: %v, want %v", vip, at.Name, err, hostUnreachable(v6).errno)
			}
			if err := mend(); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.wantDrops("")
}
