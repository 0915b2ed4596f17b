// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// newVIPScene has one client, who may ping, and two servers.
func newVIPScene(t *testing.T) (s *scene, client *netlab.Node) {
	t.Helper()
	s = newScene(t, netlab.Options{Prefix: "vip", Clients: 1, Servers: 2})
	for _, srv := range s.Servers() {
		s.serve(srv, srv.Device, 8080)
	}
	client = s.Clients()[0]
	if err := client.SetSysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
		t.Fatal(err)
	}
	return s, client
}

// wantServed wants both servers at each VIP, by TCP and by UDP, and that the
// log has nothing to warn of.
func (s *scene) wantServed(client *netlab.Node, vips []netip.AddrPort) {
	s.t.Helper()
	for _, vip := range vips {
		byTCP, byUDP := map[string]int{}, map[string]int{}
		for range 4 {
			c, who, err := connect(client, vip)
			if err != nil {
				s.t.Fatalf("TCP to %v: %v", vip, err)
			}
			byTCP[who]++
			if err := echo(c, random(1<<20)); err != nil {
				s.t.Errorf("TCP to %v: %v", vip, err)
			}
			c.Close()
			if who, err = ask(client, vip); err != nil {
				s.t.Fatalf("UDP to %v: %v", vip, err)
			}
			byUDP[who]++
		}
		for _, srv := range s.Servers() {
			if byTCP[srv.Device] != 2 || byUDP[srv.Device] != 2 {
				s.t.Errorf("%v: %v by TCP, %v by UDP, want two each", vip, byTCP, byUDP)
			}
		}
	}
	if n := count(s.logText(), "level=WARN"); n != 0 {
		s.t.Errorf("%d warnings, want none:\n%s", n, s.logText())
	}
}

// TestAVIPOnTheDirectorsDevice: the VIPs are addresses of the client's own
// network. It asks for them by ARP and neighbour discovery, and the director's
// stack answers these, as it answers ping.
func TestAVIPOnTheDirectorsDevice(t *testing.T) {
	s, client := newVIPScene(t)
	s.isolate(client.Namespace)
	var vips []netip.AddrPort
	for _, vip := range []netip.Addr{
		netip.AddrFrom4([4]byte{198, 18, 1, 100}), netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0c, 5: 1, 15: 100}),
	} {
		vips = append(vips, netip.AddrPortFrom(vip, 80))
		dev := command("ip", "addr", "add", netip.PrefixFrom(vip, vip.BitLen()).String(), "dev", client.Device)
		if err := s.Director.Run(dev); err != nil {
			t.Fatal(err)
		}
	}
	s.write(textAt(vips, "rr", s.Servers()...))
	s.start()
	for _, vip := range vips {
		ping(t, client, vip.Addr(), 100)
	}
	s.wantServed(client, vips)
}

// TestAVIPThatIsRoutedToTheDirector: a router knows that the director is the way
// to the VIPs, which are on no device at all. Ping is the stack's business here
// too: its route says that nobody is there.
func TestAVIPThatIsRoutedToTheDirector(t *testing.T) {
	s, client := newVIPScene(t)
	router, err := s.AddRouter(client)
	if err != nil {
		t.Fatal(err)
	}
	s.isolate(router.Namespace)
	for _, vip := range vips {
		director := either(vip.Addr().Is6(), router.Director4, router.Director6)
		if err := router.AddRoute(netip.PrefixFrom(vip.Addr(), vip.Addr().BitLen()), director); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Director.Refuse(vip.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	s.write(s.text(s.Servers()...))
	s.start()
	s.wantServed(client, vips)
	for _, vip := range vips {
		v6 := vip.Addr().Is6()
		protocol, kind := unix.IPPROTO_ICMP, byte(8)
		if v6 {
			protocol, kind = unix.IPPROTO_ICMPV6, 128
		}
		echo := openProtocol(t, client.Namespace, unix.SOCK_DGRAM, protocol, v6)
		request := []byte{kind, 0, 0, 0, 0, 0, 0, 1}
		if err := errors.Join(echo.connect(netip.AddrPortFrom(vip.Addr(), 0)), echo.send(request)); err != nil {
			t.Fatal(err)
		}
		got, err := echo.failure()
		want, from := hostUnreachable(v6), either(v6, router.Director4, router.Director6)
		if err != nil || got.errno != want.errno || got.kind != want.kind || got.from != from {
			t.Errorf("ping of %v: %+v, %v; want %v from %v", vip.Addr(), got, err, want.errno, from)
		}
	}
}

// TestTheMachinesOwnConnectionsGoOnBesideAHash: what waggle finds at a VIP when
// it starts is the stack's, though the schedulers that hash take up connections
// that they do not know.
func TestTheMachinesOwnConnectionsGoOnBesideAHash(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "vip", Clients: 1, Servers: 1, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}, AssignVIPs: true})
	s.serve(s.Servers()[0], "server", 8080)
	var streams []*stream
	for _, vip := range vips {
		serveAt(t, s.Director, vip, named("own"))
		streams = append(streams, s.stream(vip))
	}
	s.write(textAt(vips, "sh", s.Servers()...))
	s.start()
	s.goesOn(streams)
	for _, vip := range vips {
		c, who, err := connect(s.Clients()[0], vip)
		if err != nil || who != "server" {
			t.Fatalf("a new connection to %v is answered by %q, %v", vip, who, err)
		}
		c.Close()
	}
	s.goesOn(streams)
	s.finish(streams)
}
