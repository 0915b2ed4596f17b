// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// byXDP is revealing with XDP between all nodes, behind a firewall that drops what
// connection tracking has not seen from its beginning.
func byXDP(t *testing.T, mode, word string) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	s.reveal(s.Servers()[0], 8080)
	for _, n := range slices.Concat(s.Clients(), s.Servers()) {
		if err := n.PassXDP("eth0"); err != nil {
			t.Fatal(err)
		}
	}
	s.nft(firewall, "-f", "-")
	s.args = []string{"--xdp", mode}
	s.write(masquerading(word, vips, s.Servers()...))
	s.start()
	return s
}

// A flow is XDP's or the stack's, from its first packet to its last: a firewall that
// drops what has no beginning sees nothing of it, whether the nodes leave checksums to
// their devices, so that no packet can be sent on by XDP, or not, so that all can.
func TestXDPOwnsFlowsFromTheFirstPacketToTheLast(t *testing.T) {
	for _, tc := range []struct {
		mode, masquerade string
		finished         bool
	}{{"native", "never", true}, {"native", "always", true}, {"native", "always", false}, {"generic", "never", true}} {
		t.Run(fmt.Sprintf("%s, masquerade %s, finished checksums %v", tc.mode, tc.masquerade, tc.finished), func(t *testing.T) {
			s := byXDP(t, tc.mode, tc.masquerade)
			client, server := s.Clients()[0], s.Servers()[0]
			for _, n := range []*netlab.Node{client, server} {
				if err := n.SetOffload("eth0", netlab.TxChecksum, !tc.finished); err != nil {
					t.Fatal(err)
				}
			}
			by := newForeign(t, s.Director, server.Device, ebpf.AttachTCXEgress)
			everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
				tk, err := call(client, network, 0, vip)
				if err != nil {
					t.Fatal(err)
				}
				defer tk.Close()
				before := by.packets(t)
				if err := tk.exchange(256 << 10); err != nil {
					t.Errorf("%s to %s: %v", network, vip, err)
				}
				n := by.packets(t) - before
				if tc.finished && n > 10 || !tc.finished && n < 100 {
					t.Errorf("%s to %s: %d packets left past XDP", network, vip, n)
				}
			})
			for _, name := range []string{"invalid", "known"} {
				if n := s.counted(name); n != 0 {
					t.Errorf("the firewall counted %d packets as %s", n, name)
				}
			}
		})
	}
}

// Neighbours that are forgotten amid a connection are found again, though no packet of
// it goes through the stack.
func TestXDPFindsNeighboursAgain(t *testing.T) {
	s := byXDP(t, "native", "never")
	if err := s.Clients()[0].SetOffload("eth0", netlab.TxChecksum, false); err != nil {
		t.Fatal(err)
	}
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		tk, err := call(s.Clients()[0], network, 0, vip)
		if err != nil {
			t.Fatal(err)
		}
		defer tk.Close()
		for range 3 {
			s.forgetNeighbours()
			if err := tk.exchange(10 << 10); err != nil {
				t.Errorf("%s to %s: %v", network, vip, err)
			}
		}
	})
	if n := s.counted("invalid") + s.counted("known"); n != 0 {
		t.Errorf("the firewall counted %d packets", n)
	}
}

func (s *scene) forgetNeighbours() {
	s.t.Helper()
	list, err := s.Director.Netlink().NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range list {
		if err := s.Director.Netlink().NeighDel(&list[i]); err != nil {
			s.t.Logf("forget %v: %v", list[i].IP, err) // multicast
		}
	}
}

// Connections go on while the process that decides is away, comes again, and takes XDP
// off every device.
func TestXDPGoesOnWithoutTheDaemon(t *testing.T) {
	s := byXDP(t, "native", "never")
	var talks []*talk
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		tk, err := call(s.Clients()[0], network, 0, vip)
		if err != nil {
			t.Fatal(err)
		}
		talks = append(talks, tk)
	})
	all := func(when string) {
		t.Helper()
		for _, tk := range talks {
			if err := tk.exchange(64 << 10); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	all("at first")
	s.kill()
	all("without a daemon")
	s.start()
	all("with another")
	s.kill()
	s.args = []string{"--xdp", "off"}
	s.start()
	s.logs(1, "program detached", "hook=xdp", "device="+s.Clients()[0].Device)
	all("without XDP")
	if n := s.counted("invalid"); n != 0 {
		t.Errorf("the firewall counted %d packets as invalid", n)
	}
	for _, tk := range talks {
		tk.Close()
	}
}

// With a file, XDP is where nothing speaks against it: what does is in the log and in
// the status, and where it is gone XDP comes.
func TestXDPIsWhereNothingSpeaksAgainstIt(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	client, server := s.Clients()[0], s.Servers()[0]
	if err := client.PassXDP("eth0"); err != nil {
		t.Fatal(err)
	}
	s.reveal(server, 8080)
	s.nft(firewall, "-f", "-")
	s.write(masquerading("never", vips, server))
	s.start()
	s.logs(1, "msg=XDP", "mode=off", client.Device+" "+server.Device, "chain forward of nftables table inet lab filters what is forwarded")
	s.nft("", "delete", "table", "inet", "lab")
	// an event, or ten seconds
	s.inDirector("ip", "address", "add", "192.0.2.99/32", "dev", client.Device)
	s.logs(1, "msg=XDP", "devices="+client.Device, "mode=native", "nothing speaks against it")
	s.logs(1, "msg=XDP", "devices="+server.Device, "mode=off", "loses frames of XDP")
	s.eventually("the status says so", func() error {
		out := s.must("status")
		for _, want := range []string{"XDP on", client.Device + " (native)", server.Device + " (the other end of the veth"} {
			if !strings.Contains(out, want) {
				return errors.New(out)
			}
		}
		return nil
	})
	tk, err := call(client, "tcp", 0, vip4)
	if err != nil {
		t.Fatal(err)
	}
	defer tk.Close()
	if err := tk.exchange(64 << 10); err != nil {
		t.Error(err)
	}
}

// Errors about flows that are XDP's come through too, whoever makes them: a firewall would
// drop them, as they are about connections that it has not seen.
func TestXDPPathMTUIsDiscovered(t *testing.T) {
	for _, tc := range []struct {
		masquerade string
		at         bottleneck
	}{{"never", bottlenecks[0]}, {"never", bottlenecks[2]}, {"always", bottlenecks[3]}} {
		t.Run("masquerade "+tc.masquerade+"/"+tc.at.name, func(t *testing.T) {
			r := prepared(t, both(tc.masquerade), func(r *routed) {
				if err := r.clientRouter.PassXDP(netlab.RouterUp); err != nil {
					t.Fatal(err)
				}
				if err := r.serverRouter.PassXDP(netlab.RouterUp); err != nil {
					t.Fatal(err)
				}
				for _, n := range []*netlab.Node{r.client, r.server} {
					if err := n.SetOffload("eth0", netlab.TxChecksum, false); err != nil {
						t.Fatal(err)
					}
				}
				r.nft(firewall, "-f", "-")
			}, "--xdp", "native")
			r.findsMTU(t, tc.at, tc.masquerade)
		})
	}
}
