// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// compareAddrs lets cmp compare addresses.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.AllowUnexported(icmpError{}),
}

// wantFailure wants an ICMP error at a socket, and nothing else.
func wantFailure(t *testing.T, what string, s *socket, want icmpError) {
	t.Helper()
	got, err := s.failure()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Errorf("%s: (-want +got)\n%s", what, d)
	}
}

// What errors are in each family: closed port, no way to the host, too many
// hops.
func portUnreachable(v6 bool) icmpError {
	if v6 {
		return icmpError{errno: unix.ECONNREFUSED, kind: 1, code: 4}
	}
	return icmpError{errno: unix.ECONNREFUSED, kind: 3, code: 3}
}

func hostUnreachable(v6 bool) icmpError {
	if v6 {
		return icmpError{errno: unix.ENETUNREACH, kind: 1, code: 0}
	}
	return icmpError{errno: unix.EHOSTUNREACH, kind: 3, code: 1}
}

func timeExceeded(v6 bool) icmpError {
	if v6 {
		return icmpError{errno: unix.EHOSTUNREACH, kind: 3}
	}
	return icmpError{errno: unix.EHOSTUNREACH, kind: 11}
}

// as says from whom an error comes and what it is about.
func (e icmpError) as(from netip.Addr, about netip.AddrPort, quoted string) icmpError {
	e.from, e.about, e.quoted = from, about, quoted
	return e
}

// either picks the address of a family.
func either(v6 bool, addr4, addr6 netip.Addr) netip.Addr {
	if v6 {
		return addr6
	}
	return addr4
}

// exchange sends a datagram from the client through the VIP and returns the
// server's socket, which has received it, and the client's.
func (r *routed) exchange(vip netip.AddrPort) (client, server *socket) {
	r.t.Helper()
	v6 := vip.Addr().Is6()
	server = open(r.t, r.server.Namespace, unix.SOCK_DGRAM, v6)
	server.bind(netip.AddrPortFrom(r.server.Addr(v6), 8000+vip.Port()))
	client = open(r.t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	if err := errors.Join(client.connect(vip), client.send([]byte("there"))); err != nil {
		r.t.Fatal(err)
	}
	b, from, err := server.receive()
	if err != nil || string(b) != "there" || from != client.local() {
		r.t.Fatalf("the server got %q from %v, %v; want it from %v", b, from, err, client.local())
	}
	if err := server.sendTo([]byte("back"), from); err != nil {
		r.t.Fatal(err)
	}
	if b, from, err = client.receive(); err != nil || string(b) != "back" || from != vip {
		r.t.Fatalf("the client got %q from %v, %v; want it from %v", b, from, err, vip)
	}
	return client, server
}

func TestICMPErrorsReachTheSocketsTheyAreAbout(t *testing.T) {
	r := newRouted(t, plain(80, 81))
	for _, vip := range vips {
		family := map[bool]string{false: "ipv4", true: "ipv6"}[vip.Addr().Is6()]
		closed := netip.AddrPortFrom(vip.Addr(), 81)
		t.Run(family+"/the server's port is closed", func(t *testing.T) { r.serverClosed(t, closed) })
		t.Run(family+"/the client's port is closed", func(t *testing.T) { r.clientClosed(t, vip) })
		t.Run(family+"/hops of the client", func(t *testing.T) { r.clientHops(t, vip) })
		t.Run(family+"/hops of the server", func(t *testing.T) { r.serverHops(t, vip) })
		t.Run(family+"/past the VIP", func(t *testing.T) { r.direct(t, vip) })
		t.Run(family+"/no way", func(t *testing.T) { r.noWay(t, vip) })
	}
	t.Run("hops of the client's SYN", r.synHops)
	if drops := r.dropped(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
}

func (r *routed) serverClosed(t *testing.T, closed netip.AddrPort) {
	v6 := closed.Addr().Is6()
	c := open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	if err := errors.Join(c.connect(closed), c.send([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	if b, _, err := c.receive(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("received %q, %v; want connection refused", b, err)
	}
	wantFailure(t, "closed port", c, portUnreachable(v6).as(closed.Addr(), closed, "hello"))
	tcp := open(t, r.client.Namespace, unix.SOCK_STREAM, v6)
	if err := tcp.connect(closed); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("TCP: %v, want connection refused", err)
	}
}

func (r *routed) clientClosed(t *testing.T, vip netip.AddrPort) {
	v6 := vip.Addr().Is6()
	c, s := r.exchange(vip)
	at := c.local()
	c.close()
	if err := s.sendTo([]byte("late"), at); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, "closed port", s, portUnreachable(v6).as(at.Addr(), at, "late"))
	s.close()
}

// clientHops lets packets to the VIP die on their way, one router after the
// other. The first knows the VIP; what is behind it speaks as the VIP.
func (r *routed) clientHops(t *testing.T, vip netip.AddrPort) {
	v6 := vip.Addr().Is6()
	c, s := r.exchange(vip)
	defer s.close()
	froms := []netip.Addr{r.client.Gateway4, vip.Addr(), vip.Addr()}
	if v6 {
		froms[0] = r.client.Gateway6
	}
	for i, from := range froms {
		c.hops(i + 1)
		said := fmt.Sprint("hop ", i+1)
		if err := c.send([]byte(said)); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, said, c, timeExceeded(v6).as(from, vip, said))
	}
	c.hops(len(froms) + 1)
	// the errors left their mark on the socket, once
	if err := c.send([]byte("arrives")); err != nil {
		if err := c.send([]byte("arrives")); err != nil {
			t.Fatal(err)
		}
	}
	if b, _, err := s.receive(); err != nil || string(b) != "arrives" {
		t.Errorf("the server got %q, %v", b, err)
	}
}

// synHops does the same to connections that begin; all at once, as each takes
// a second: an error that comes before connect has gone to sleep counts only
// when the SYN is sent again.
func (r *routed) synHops(t *testing.T) {
	var wg sync.WaitGroup
	for _, vip := range vips {
		v6 := vip.Addr().Is6()
		l, err := r.server.Listen(t.Context(), "tcp", netip.AddrPortFrom(r.server.Addr(v6), 8000+vip.Port()).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		froms := []netip.Addr{either(v6, r.client.Gateway4, r.client.Gateway6), vip.Addr(), vip.Addr()}
		for i, from := range froms {
			c := open(t, r.client.Namespace, unix.SOCK_STREAM, v6)
			c.hops(i + 1)
			wg.Go(func() {
				if err := c.connect(vip); !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("%v: hop %d: connect: %v, want no route to host", vip, i+1, err)
				}
				got, err := c.failure()
				if err != nil {
					t.Errorf("%v: hop %d: %v", vip, i+1, err)
				}
				got.quoted = "" // the header's rest
				if d := cmp.Diff(timeExceeded(v6).as(from, vip, ""), got, compareAddrs); d != "" {
					t.Errorf("%v: hop %d: (-want +got)\n%s", vip, i+1, d)
				}
			})
		}
		c := open(t, r.client.Namespace, unix.SOCK_STREAM, v6)
		c.hops(len(froms) + 1)
		if err := c.connect(vip); err != nil {
			t.Errorf("%v: with enough hops: %v", vip, err)
		}
	}
	wg.Wait()
}

// serverHops lets replies die: the server hears of it from who dropped them.
func (r *routed) serverHops(t *testing.T, vip netip.AddrPort) {
	v6 := vip.Addr().Is6()
	c, s := r.exchange(vip)
	defer s.close()
	for i, from := range []netip.Addr{
		either(v6, r.server.Gateway4, r.server.Gateway6),
		either(v6, r.serverRouter.Director4, r.serverRouter.Director6),
		either(v6, r.clientRouter.V4, r.clientRouter.V6),
	} {
		s.hops(i + 1)
		said := fmt.Sprint("hop ", i+1)
		if err := s.sendTo([]byte(said), c.local()); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, said, s, timeExceeded(v6).as(from, c.local(), said))
	}
}

// direct talks to the server past the VIP: errors about such packets are none
// of ours, though the same client has a flow with the same server.
func (r *routed) direct(t *testing.T, vip netip.AddrPort) {
	v6 := vip.Addr().Is6()
	_, s := r.exchange(vip)
	defer s.close()
	server := netip.AddrPortFrom(r.server.Addr(v6), 8080)
	c := open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	if err := c.connect(server); err != nil {
		t.Fatal(err)
	}
	for i, from := range []netip.Addr{
		either(v6, r.client.Gateway4, r.client.Gateway6),
		either(v6, r.clientRouter.Director4, r.clientRouter.Director6),
		either(v6, r.serverRouter.V4, r.serverRouter.V6),
	} {
		c.hops(i + 1)
		said := fmt.Sprint("hop ", i+1)
		if err := c.send([]byte(said)); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, said, c, timeExceeded(v6).as(from, server, said))
	}
	s.close()
	c = open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	if err := errors.Join(c.connect(server), c.send([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, "closed port", c, portUnreachable(v6).as(server.Addr(), server, "hello"))
}

// noWay cuts the way off behind each router in turn.
func (r *routed) noWay(t *testing.T, vip netip.AddrPort) {
	v6 := vip.Addr().Is6()
	c, s := r.exchange(vip)
	defer s.close()
	client, server := c.local(), r.server.Addr(v6)
	for _, cut := range []struct {
		name  string
		at    *netlab.Namespace
		dst   netip.Addr
		hears *socket
		from  netip.Addr
	}{
		{"the server's router does not reach it", r.serverRouter.Namespace, server, c, vip.Addr()},
		{"the director does not reach the server", r.Director, server, c, vip.Addr()},
		{"the client's router does not reach it", r.clientRouter.Namespace, client.Addr(), s, either(v6, r.clientRouter.V4, r.clientRouter.V6)},
		{"the director does not reach the client", r.Director, client.Addr(), s, either(v6, r.serverRouter.Director4, r.serverRouter.Director6)},
	} {
		mend, err := cut.at.Refuse(cut.dst)
		if err != nil {
			t.Fatal(err)
		}
		about := vip
		if cut.hears == c {
			err = c.send([]byte(cut.name))
		} else {
			about = client
			err = s.sendTo([]byte(cut.name), client)
		}
		if err != nil {
			t.Errorf("%s: %v", cut.name, err)
		}
		wantFailure(t, cut.name, cut.hears, hostUnreachable(v6).as(cut.from, about, cut.name))
		if err := mend(); err != nil {
			t.Fatal(err)
		}
	}
}

// dropped returns how many packets the director has dropped, by reason.
func (s *scene) dropped() map[string]int {
	s.t.Helper()
	var stats struct {
		Drops []struct {
			Reason  string
			Packets int
		}
	}
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &stats); err != nil {
		s.t.Fatal(err)
	}
	drops := map[string]int{}
	for _, d := range stats.Drops {
		if d.Packets > 0 {
			drops[d.Reason] = d.Packets
		}
	}
	return drops
}
