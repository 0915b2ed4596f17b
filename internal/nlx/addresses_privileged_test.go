// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nlx_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/nlx"
)

func TestAddressesThatComeAndGoAreTold(t *testing.T) {
	node, w := newWatcher(t)
	ctx, cancel := context.WithCancel(t.Context())
	first, changes, done := make(chan []nlx.Address, 1), make(chan nlx.Address, 16), make(chan struct{})
	go func() {
		defer close(done)
		w.RunAddresses(ctx, func(list []nlx.Address) { first <- list }, func(a nlx.Address) { changes <- a })
	}()
	defer func() { cancel(); <-done }()
	if list := <-first; len(list) == 0 {
		t.Error("no address at first")
	}
	lo, err := node.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(203, 0, 113, 1), Mask: net.CIDRMask(32, 32)}}
	if err := node.Netlink().AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	if err := node.Netlink().AddrDel(lo, addr); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []bool{false, true} {
		want := nlx.Address{Addr: netip.MustParseAddr("203.0.113.1"), Device: lo.Attrs().Index, Gone: gone}
		select {
		case got := <-changes:
			if got != want {
				t.Errorf("told of %+v, want %+v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told of %+v", want)
		}
	}
}
