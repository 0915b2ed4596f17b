// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nlx_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// addBridge makes a bridge, and a pair of which one end is its port.
func addBridge(t *testing.T, h *netlink.Handle) {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := h.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port", MasterIndex: bridge.Index}, PeerName: "peer"}
	if err := h.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
}

func link(s nlx.State, name string) (nlx.Link, bool) {
	i := slices.IndexFunc(s.Links, func(l nlx.Link) bool { return l.Name == name })
	if i < 0 {
		return nlx.Link{}, false
	}
	return s.Links[i], true
}

func TestReadSaysWhatDevicesAreAndWhoseTheyAre(t *testing.T) {
	node, w := newWatcher(t)
	addBridge(t, node.Netlink())
	for device, prefix := range map[string]string{"br0": "192.0.2.1/24", "lo": "192.0.2.1/32"} {
		if err := node.AddAddr(device, netip.MustParsePrefix(prefix)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := w.Read()
	if err != nil {
		t.Fatal(err)
	}
	bridge, _ := link(s, "br0")
	port, _ := link(s, "port")
	peer, _ := link(s, "peer")
	eth0, _ := link(s, "eth0") // whose other end is in another namespace
	if eth0.Parent == 0 || eth0.PeerNamespace < 0 {
		t.Errorf("eth0's other end is device %d of namespace %d", eth0.Parent, eth0.PeerNamespace)
	}
	for _, want := range []nlx.Link{
		{Name: "lo", Kind: "device", Loopback: true, PeerNamespace: -1, MTU: 65536},
		{Name: "eth0", Kind: "veth", Ethernet: true, Parent: eth0.Parent, PeerNamespace: eth0.PeerNamespace, MTU: 1500},
		{Name: "br0", Kind: "bridge", Ethernet: true, PeerNamespace: -1, MTU: 1500},
		{Name: "port", Kind: "veth", Ethernet: true, Master: bridge.Index, MasterKind: "bridge", Parent: peer.Index, PeerNamespace: -1, MTU: 1500},
		{Name: "peer", Kind: "veth", Ethernet: true, Parent: port.Index, PeerNamespace: -1, MTU: 1500},
	} {
		got, ok := link(s, want.Name)
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(nlx.Link{}, "Index", "Sources", "MAC")); d != "" || !ok || got.Index == 0 {
			t.Errorf("device %s: %v (-want +got):\n%s", want.Name, ok, d)
		}
	}
	if !slices.IsSortedFunc(s.Links, func(a, b nlx.Link) int { return a.Index - b.Index }) {
		t.Errorf("devices are not in the order of their indices: %+v", s.Links)
	}
	for _, want := range []string{"127.0.0.1", "::1", "192.0.2.1", node.V4.String(), node.V6.String()} {
		if !slices.Contains(s.Addrs, netip.MustParseAddr(want)) {
			t.Errorf("addresses %v, want %s among them", s.Addrs, want)
		}
	}
	if !slices.IsSortedFunc(s.Addrs, netip.Addr.Compare) || len(slices.Compact(slices.Clone(s.Addrs))) != len(s.Addrs) {
		t.Errorf("addresses are not sorted, or come twice: %v", s.Addrs)
	}
}

// wantState waits until Run says what is wanted.
func wantState(t *testing.T, states <-chan nlx.State, what string, wanted func(nlx.State) bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	var last nlx.State
	for {
		select {
		case last = <-states:
			if wanted(last) {
				return
			}
		case <-timeout:
			t.Fatalf("%s: not seen in 20 s; last state %+v", what, last)
		}
	}
}

func TestRunFollowsDevicesAndAddresses(t *testing.T) {
	node, w := newWatcher(t)
	ctx, cancel := context.WithCancel(t.Context())
	states, ended := make(chan nlx.State), make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, func(s nlx.State) {
			select {
			case states <- s:
			case <-ctx.Done():
			}
		})
	}()
	has := func(name string) func(nlx.State) bool {
		return func(s nlx.State) bool { _, ok := link(s, name); return ok }
	}
	not := func(f func(nlx.State) bool) func(nlx.State) bool { return func(s nlx.State) bool { return !f(s) } }
	addr := func(s nlx.State) bool { return slices.Contains(s.Addrs, netip.MustParseAddr("192.0.2.1")) }
	wantState(t, states, "what is there at the start", has("eth0"))
	addBridge(t, node.Netlink())
	wantState(t, states, "a bridge's port", func(s nlx.State) bool { l, _ := link(s, "port"); return l.MasterKind == "bridge" })
	if err := node.AddAddr("br0", netip.MustParsePrefix("192.0.2.1/24")); err != nil {
		t.Fatal(err)
	}
	wantState(t, states, "an address", addr)
	bridge, err := node.Netlink().LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr("192.0.2.1/24")
	if err := errors.Join(err, node.Netlink().AddrDel(bridge, a)); err != nil {
		t.Fatal(err)
	}
	wantState(t, states, "the address gone", not(addr))
	port, err := node.Netlink().LinkByName("port")
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Netlink().LinkSetNoMaster(port); err != nil {
		t.Fatal(err)
	}
	wantState(t, states, "the port released", func(s nlx.State) bool { l, ok := link(s, "port"); return ok && l.Master == 0 })
	if err := node.DelDevice("br0"); err != nil {
		t.Fatal(err)
	}
	wantState(t, states, "the bridge gone", not(has("br0")))
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the end of the context: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run goes on without its context")
	}
}

// A watcher's namespace is that of the thread that made it, wherever it is used.
func TestAWatcherStaysInItsNamespace(t *testing.T) {
	node, w := newWatcher(t)
	own, err := nlx.Read()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := w.Read()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(theirs.Addrs, node.V4) || slices.Contains(own.Addrs, node.V4) {
		t.Errorf("addresses %v there, %v here, want %s there alone", theirs.Addrs, own.Addrs, node.V4)
	}
}
