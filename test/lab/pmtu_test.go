// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

const (
	wide   = 1500 // MTU of a device
	narrow = 1280 // and of the narrow one: the least that IPv6 allows
)

// alternates are for UDP, so that what TCP found out about a path does not
// help it: other VIPs, and other addresses of the client.
var (
	otherVIPs = []netip.AddrPort{netip.MustParseAddrPort("198.18.255.11:80"), netip.MustParseAddrPort("[fd00:f::11]:80")}
	otherV4   = netip.MustParseAddr("198.18.1.3")
	otherV6   = netip.MustParseAddr("fd00:c:1::3")
)

// both serves port 80 of all VIPs from the server's port 8080, masqueraded or
// not.
func both(masquerade string) string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for _, proto := range []string{"TCP", "UDP"} {
		fmt.Fprintf(&b, "- name: web-%s\n  masquerade: %s\n  frontends:\n", strings.ToLower(proto), masquerade)
		for i := range vips {
			fmt.Fprintf(&b, "  - %q\n  - %q\n", vips[i].String()+"/"+proto, otherVIPs[i].String()+"/"+proto)
		}
		b.WriteString("  backends:\n  - {address: \"%4:8080\"}\n  - {address: \"[%6]:8080\"}\n")
	}
	return b.String()
}

// bottleneck is a narrow place on the way.
type bottleneck struct {
	name   string
	narrow func(r *routed) error
	// client and server are the MTU that each finds out: of its own way.
	client, server int
	// clientHears and serverHears tell from whom; the zero address is the VIP.
	clientHears, serverHears func(r *routed, v6 bool) netip.Addr
}

// squeeze narrows the one between the director and a router.
func squeeze(r *routed, node *netlab.Node, router *netlab.Router) error {
	return errors.Join(router.SetMTU(netlab.RouterUp, narrow), r.Director.SetMTU(node.Device, narrow))
}

func theVIP(*routed, bool) netip.Addr { return netip.Addr{} }

var bottlenecks = []bottleneck{
	{
		name: "behind the client's router", client: wide, server: narrow,
		narrow: func(r *routed) error {
			var errs []error
			for _, a := range []netip.Addr{r.client.V4, r.client.V6, otherV4, otherV6} {
				errs = append(errs, r.clientRouter.LimitRoute(netlab.RouterDown, a, narrow))
			}
			return errors.Join(errs...)
		},
		serverHears: func(r *routed, v6 bool) netip.Addr { return either(v6, r.clientRouter.V4, r.clientRouter.V6) },
	},
	{
		name: "between the client's router and the director", client: narrow, server: narrow,
		narrow:      func(r *routed) error { return squeeze(r, r.client, r.clientRouter) },
		clientHears: func(r *routed, v6 bool) netip.Addr { return either(v6, r.client.Gateway4, r.client.Gateway6) },
		serverHears: func(r *routed, v6 bool) netip.Addr {
			return either(v6, r.serverRouter.Director4, r.serverRouter.Director6)
		},
	},
	{
		name: "between the director and the server's router", client: narrow, server: narrow,
		narrow:      func(r *routed) error { return squeeze(r, r.server, r.serverRouter) },
		clientHears: theVIP,
		serverHears: func(r *routed, v6 bool) netip.Addr { return either(v6, r.server.Gateway4, r.server.Gateway6) },
	},
	{
		name: "behind the server's router", client: narrow, server: wide,
		narrow: func(r *routed) error {
			return errors.Join(
				r.serverRouter.LimitRoute(netlab.RouterDown, r.server.V4, narrow),
				r.serverRouter.LimitRoute(netlab.RouterDown, r.server.V6, narrow))
		},
		clientHears: theVIP,
	},
}

func TestPathMTUIsDiscovered(t *testing.T) {
	for _, masquerade := range []string{"never", "always"} {
		for _, b := range bottlenecks {
			t.Run("masquerade "+masquerade+"/"+b.name, func(t *testing.T) {
				newRouted(t, both(masquerade)).findsMTU(t, b, masquerade)
			})
		}
	}
}

// findsMTU narrows the way at a place, and has both ends find out.
func (r *routed) findsMTU(t *testing.T, b bottleneck, masquerade string) {
	for _, a := range []netip.Prefix{netip.PrefixFrom(otherV4, 24), netip.PrefixFrom(otherV6, 64)} {
		if err := r.client.AddAddr("eth0", a); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.narrow(r); err != nil {
		t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		r.tcpFinds(t, b, v6)
		r.udpFinds(t, b, v6, masquerade == "always")
	}
	if drops := r.dropped(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
}

// of picks what is of the family.
func of(v6 bool, list []netip.AddrPort) netip.AddrPort {
	if v6 {
		return list[1]
	}
	return list[0]
}

// tcpFinds sends 1 MiB each way over a connection whose ends know nothing of
// the narrow place.
func (r *routed) tcpFinds(t *testing.T, b bottleneck, v6 bool) {
	vip := of(v6, vips)
	l, err := r.server.Listen(t.Context(), "tcp", netip.AddrPortFrom(r.server.Addr(v6), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.client.Addr(v6), 0))}
	c, err := r.client.DialWith(t.Context(), from, "tcp", vip.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := mtuOf(t, c, v6); b.client == narrow && got != wide {
		t.Errorf("%v: the client's path begins with %d", vip, got)
	}
	go io.Copy(s, s) // an echo that fails shows at the client
	if err := patient(c, random(1<<20)); err != nil {
		t.Errorf("%v: %v", vip, err)
	}
	if got := mtuOf(t, c, v6); got != b.client {
		t.Errorf("%v: the client found out %d, want %d", vip, got, b.client)
	}
	if got := mtuOf(t, s, v6); got != b.server {
		t.Errorf("%v: the server found out %d, want %d", vip, got, b.server)
	}
}

// mtuOf is what the kernel knows of a connection's path.
func mtuOf(t *testing.T, c net.Conn, v6 bool) (mtu int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { mtu = (&socket{t: t, fd: int(fd), v6: v6}).mtu() }); err != nil {
		t.Fatal(err)
	}
	return mtu
}

// patient is echo with a deadline.
func patient(c net.Conn, b []byte) error {
	if err := c.SetDeadline(soon()); err != nil {
		return err
	}
	return echo(c, b)
}

// udpFinds sends datagrams that may not be fragmented, each way.
func (r *routed) udpFinds(t *testing.T, b bottleneck, v6, masquerade bool) {
	vip, own := of(v6, otherVIPs), either(v6, otherV4, otherV6)
	server := open(t, r.server.Namespace, unix.SOCK_DGRAM, v6)
	defer server.close()
	server.bind(netip.AddrPortFrom(r.server.Addr(v6), 8080))
	client := open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	client.bind(netip.AddrPortFrom(own, 0))
	if err := errors.Join(client.connect(vip), client.send([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	_, from, err := server.receive()
	if err != nil || (from == client.local()) == masquerade {
		t.Fatalf("the server sees %v, %v", from, err)
	}
	there := way{from: client, to: server, send: client.send, about: vip, narrow: b.client == narrow}
	if there.narrow {
		there.hears = b.clientHears(r, v6)
		if !there.hears.IsValid() {
			there.hears = vip.Addr()
		}
	}
	there.try(t)
	back := way{from: server, to: client, send: func(b []byte) error { return server.sendTo(b, from) }, about: from, narrow: b.server == narrow}
	if back.narrow && !masquerade { // else TCP has found it out: the same address
		back.hears = b.serverHears(r, v6)
	}
	back.try(t)
}

// way is one direction of a UDP flow.
type way struct {
	from, to *socket
	send     func([]byte) error
	about    netip.AddrPort
	narrow   bool
	hears    netip.Addr // zero: it knows already
}

func (w way) try(t *testing.T) {
	t.Helper()
	w.from.whole()
	big, most := random(1400), random(narrow-20-8)
	if w.from.v6 {
		most = random(narrow - 40 - 8)
	}
	want := icmpError{errno: unix.EMSGSIZE, kind: 3, code: 4, info: narrow, from: w.hears, about: w.about}
	if w.from.v6 {
		want.kind, want.code = 2, 0
	}
	if w.hears.IsValid() {
		if err := w.send(big); err != nil {
			t.Errorf("to %v, path unknown: %v", w.about, err)
		}
		got, err := w.from.failure()
		got.quoted = ""
		if err != nil || got != want {
			t.Errorf("to %v: heard %+v, %v; want %+v", w.about, got, err, want)
		}
	}
	arrives := big
	if w.narrow {
		if err := w.send(big); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("to %v, path known: %v, want message too long", w.about, err)
		}
		arrives = most
	}
	if err := w.send(arrives); err != nil {
		t.Errorf("to %v, %d bytes: %v", w.about, len(arrives), err)
	}
	if b, _, err := w.to.receive(); err != nil || string(b) != string(arrives) {
		t.Errorf("to %v: %d bytes of %d arrived, %v", w.about, len(b), len(arrives), err)
	}
}
