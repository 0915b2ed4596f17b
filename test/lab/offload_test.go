// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// What udp.h says and package unix does not.
const (
	udpNoCheck6Tx = 101
	udpNoCheck6Rx = 102
	udpSegment    = 103
)

// offloads is who leaves what to the devices. A veth leaves all by default,
// but for merging.
type offloads struct {
	name            string
	nodes, director []netlab.Offload // off
	merging         bool             // on, at the director
}

var (
	checksums = []netlab.Offload{netlab.TxChecksum, netlab.RxChecksum}
	segments  = []netlab.Offload{netlab.TSO, netlab.GSO}
	all       = slices.Concat(segments, []netlab.Offload{netlab.Scatter, netlab.GRO}, checksums)
)

var offloadings = []offloads{
	{name: "as a veth is"},
	{name: "none at the nodes", nodes: all},
	{name: "none at the director", director: all},
	{name: "none anywhere", nodes: all, director: all},
	{name: "no checksums at the director", director: checksums},
	{name: "no segmentation at the director", director: segments},
	{name: "merging at the director", merging: true},
	{name: "merging of whole packets at the director", nodes: all, merging: true},
	{name: "merging at the director, segmented again", nodes: all, director: slices.Concat(checksums, segments), merging: true},
}

// apply sets what the devices do, all other features being on.
func (s *scene) apply(t *testing.T, o offloads) {
	t.Helper()
	set := func(n *netlab.Namespace, device string, off []netlab.Offload, merging bool) {
		for _, f := range slices.Concat(checksums, []netlab.Offload{netlab.Scatter}, segments) {
			if err := n.SetOffload(device, f, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.SetOffload(device, netlab.GRO, merging); err != nil {
			t.Fatal(err)
		}
		for _, f := range off {
			if err := n.SetOffload(device, f, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, node := range append(s.Clients(), s.Servers()...) {
		set(node.Namespace, "eth0", o.nodes, false)
		set(s.Director, node.Device, o.director, o.merging)
	}
}

// bare serves UDP port 81 of the VIPs from the server's port 8081.
func bare(masquerade string) string {
	return fmt.Sprintf("- name: bare\n  masquerade: %s\n  frontends: [\"%s:81/UDP\", \"[%s]:81/UDP\"]\n  backends: [{address: \"%%4:8081\"}, {address: \"[%%6]:8081\"}]\n",
		masquerade, vip4.Addr(), vip6.Addr())
}

func TestOffloadsDoNotMatter(t *testing.T) {
	for _, masquerade := range []string{"never", "always"} {
		s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
		srv := s.Servers()[0]
		s.serve(srv, "s", 8080)
		s.write(serverIs(srv).Replace(both(masquerade) + bare(masquerade)))
		s.start()
		for _, o := range offloadings {
			t.Run("masquerade "+masquerade+"/"+o.name, func(t *testing.T) {
				s.apply(t, o)
				for _, vip := range vips {
					c, _, err := connect(s.Clients()[0], vip)
					if err != nil {
						t.Fatalf("%v: %v", vip, err)
					}
					if err := echo(c, random(1<<20)); err != nil {
						t.Errorf("%v: %v", vip, err)
					}
					c.Close()
					s.udp(t, netip.AddrPortFrom(vip.Addr(), 81))
				}
			})
		}
		if drops := s.dropped(); len(drops) != 0 {
			t.Errorf("drops %v", drops)
		}
	}
}

// udp sends datagrams there and back: with a checksum, many as one that the
// device cuts, and without a checksum.
func (s *scene) udp(t *testing.T, vip netip.AddrPort) {
	t.Helper()
	v6 := vip.Addr().Is6()
	server := open(t, s.Servers()[0].Namespace, unix.SOCK_DGRAM, v6)
	defer server.close()
	server.bind(netip.AddrPortFrom(s.Servers()[0].Addr(v6), 8081))
	client := open(t, s.Clients()[0].Namespace, unix.SOCK_DGRAM, v6)
	defer client.close()
	if err := client.connect(vip); err != nil {
		t.Fatal(err)
	}
	lengths := []int{1, 999, 1400, 4001} // odd ones, and one that is too long for a packet
	for _, n := range lengths {
		roundTrip(t, fmt.Sprintf("%d bytes", n), client, server, vip, random(n))
	}
	for _, k := range []*socket{client, server} {
		k.set(unix.SOL_UDP, udpSegment, unix.SOL_UDP, udpSegment, 1000)
	}
	roundTrip(t, "20 segments", client, server, vip, random(19500))
	for _, k := range []*socket{client, server} {
		k.set(unix.SOL_UDP, udpSegment, unix.SOL_UDP, udpSegment, 0)
		k.set(unix.SOL_SOCKET, unix.SO_NO_CHECK, unix.SOL_UDP, udpNoCheck6Tx, 1)
		if v6 {
			k.set(0, 0, unix.SOL_UDP, udpNoCheck6Rx, 1)
		}
	}
	for _, n := range lengths {
		roundTrip(t, fmt.Sprintf("%d bytes without a checksum", n), client, server, vip, random(n))
	}
}

// roundTrip sends bytes to the VIP and back.
func roundTrip(t *testing.T, what string, client, server *socket, vip netip.AddrPort, b []byte) {
	t.Helper()
	if err := client.send(b); err != nil {
		t.Fatalf("%v: send %s: %v", vip, what, err)
	}
	got, from, err := gather(server, len(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%v: %s: the server got %d of %d bytes, or others: %v", vip, what, len(got), len(b), err)
		return
	}
	if err := server.sendTo(b, from); err != nil {
		t.Fatalf("%v: send %s back: %v", vip, what, err)
	}
	if got, from, err = gather(client, len(b)); err != nil || from != vip || !bytes.Equal(got, b) {
		t.Errorf("%v: %s: the client got %d of %d bytes, or others, from %v: %v", vip, what, len(got), len(b), from, err)
	}
}

// gather receives datagrams of n bytes in all.
func gather(s *socket, n int) (all []byte, from netip.AddrPort, err error) {
	for len(all) < n {
		var b []byte
		if b, from, err = s.receive(); err != nil {
			break
		}
		all = append(all, b...)
	}
	return all, from, err
}
