// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nlx_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/nlx"
)

// newWatcher makes a lab with one client and a watcher of the client: a host
// with two addresses and two default routes.
func newWatcher(t *testing.T) (*netlab.Node, *nlx.Watcher) {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "nlx", Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	node := lab.Clients()[0]
	var w *nlx.Watcher
	err = node.Do(func() error {
		w, err = nlx.NewWatcher(slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return node, w
}

func addRoute(t *testing.T, node *netlab.Node, prefix string, kind int) {
	t.Helper()
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		t.Fatal(err)
	}
	r := netlink.Route{Dst: dst, Type: kind}
	switch kind {
	case unix.RTN_UNICAST:
		r.Gw = node.Gateway4.AsSlice()
		if dst.IP.To4() == nil {
			r.Gw = node.Gateway6.AsSlice()
		}
	case unix.RTN_LOCAL:
		r.Scope = netlink.SCOPE_HOST
		if r.LinkIndex, err = node.Ifindex("lo"); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Netlink().RouteAdd(&r); err != nil {
		t.Fatalf("add route %s: %v", prefix, err)
	}
}

func TestHasRoute(t *testing.T) {
	node, w := newWatcher(t)
	for i, kind := range []int{unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT} {
		addRoute(t, node, fmt.Sprintf("203.0.%d.0/24", 113+i), kind)
		addRoute(t, node, fmt.Sprintf("2001:db8:%d::/48", 1+i), kind)
	}
	for addr, want := range map[string]bool{
		"198.51.100.1": false, "2001:db9::1": false, // the default routes
		node.V4.String(): true, node.V6.String(): true, // an address
		node.Gateway4.String(): true, node.Gateway6.String(): true, // a subnet
		"203.0.113.10": true, "2001:db8:1::10": true, // unicast
		"203.0.114.10": true, "2001:db8:2::10": true, // local
		"203.0.115.10": true, "2001:db8:3::10": true, // blackhole
		"203.0.116.10": true, "2001:db8:4::10": true, // unreachable
		"203.0.117.10": true, "2001:db8:5::10": true, // prohibit
		"203.0.118.10": false, "2001:db8:6::10": false,
	} {
		if got, err := w.HasRoute(netip.MustParseAddr(addr)); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", addr, got, err, want)
		}
	}
	if err := node.DelDevice("eth0"); err != nil { // no route at all
		t.Fatal(err)
	}
	for _, addr := range []string{"198.51.100.1", "2001:db9::1"} {
		if got, err := w.HasRoute(netip.MustParseAddr(addr)); err != nil || got {
			t.Errorf("%s without a default route: %v, %v; want false", addr, got, err)
		}
	}
}

func TestRunRoutesSeesEveryKindOfChange(t *testing.T) {
	for what, change := range map[string]func(*testing.T, *netlab.Node) error{
		"a route": func(t *testing.T, node *netlab.Node) error {
			addRoute(t, node, "203.0.113.0/24", unix.RTN_BLACKHOLE)
			return nil
		},
		"an address": func(_ *testing.T, node *netlab.Node) error {
			return node.AddAddr("lo", netip.MustParsePrefix("2001:db8::1/128"))
		},
		"a device that goes down": func(_ *testing.T, node *netlab.Node) error {
			link, err := node.Netlink().LinkByName("eth0")
			if err != nil {
				return err
			}
			return node.Netlink().LinkSetDown(link)
		},
	} {
		t.Run(what, func(t *testing.T) {
			node, w := newWatcher(t)
			// IPv6 speaks of what IPv4 does silently.
			if err := node.SetSysctl("net/ipv6/conf/eth0/disable_ipv6", "1"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			changed, ended := make(chan struct{}, 1000), make(chan error, 1)
			go func() { ended <- w.RunRoutes(ctx, func() { changed <- struct{}{} }) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("RunRoutes: %v", err)
				}
			}()
			await(t, changed, "the start")
			for quiet := false; !quiet; { // what building the lab still brings
				select {
				case <-changed:
				case <-time.After(time.Second):
					quiet = true
				}
			}
			if err := change(t, node); err != nil {
				t.Fatal(err)
			}
			await(t, changed, what)
		})
	}
}

func await(t *testing.T, changed chan struct{}, what string) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(20 * time.Second): // before the half minute of the audit
		t.Fatalf("%s was not seen", what)
	}
}
