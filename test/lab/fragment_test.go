// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// tracking makes the kernel follow connections, and for that put fragments
// together before they are routed.
const tracking = `table inet lab {
	chain prerouting {
		type filter hook prerouting priority filter
		ct state invalid drop
	}
	chain forward {
		type filter hook forward priority filter
		ct state invalid drop
	}
}`

// track starts connection tracking on the director.
func (r *routed) track() {
	r.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(tracking)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := r.Director.Run(cmd); err != nil {
		r.t.Fatalf("nft: %v\n%s", err, &out)
	}
}

func TestFragmentsInAnyOrder(t *testing.T) {
	for _, tracked := range []bool{false, true} {
		for _, masquerade := range []string{"never", "always"} {
			t.Run(fmt.Sprintf("tracked=%v,masquerade=%s", tracked, masquerade), func(t *testing.T) {
				r := newRouted(t, both(masquerade))
				if tracked {
					r.track()
				}
				before := r.reassembled()
				for _, vip := range vips {
					d := r.datagrams(t, vip)
					d.byTheKernel()
					d.byHand()
					if vip.Addr().Is6() {
						d.withOptions()
					}
				}
				if n := r.reassembled() - before; n > 0 != tracked {
					t.Errorf("the director's stack put %d datagrams together", n)
				}
				if drops := r.dropped(); len(drops) != 0 {
					t.Errorf("drops %v", drops)
				}
			})
		}
	}
}

// reassembled counts the IPv4 datagrams that the director's stack has put
// together (RFC 4293, ipReasmOKs).
func (r *routed) reassembled() (n int) {
	r.t.Helper()
	var text []byte
	err := r.Director.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Ip: ") {
			rows = append(rows, strings.Fields(line))
		}
	}
	if len(rows) == 2 {
		if i := slices.Index(rows[0], "ReasmOKs"); i > 0 {
			if n, err = strconv.Atoi(rows[1][i]); err == nil {
				return n
			}
		}
	}
	r.t.Fatalf("no ReasmOKs in:\n%s", text)
	return 0
}

// datagrams is a UDP flow with both its ends, and the devices below them.
type datagrams struct {
	t                    *testing.T
	r                    *routed
	vip                  netip.AddrPort
	client, server       *socket
	seen                 netip.AddrPort // the client, as the server sees it
	fromClient, toServer *wire
}

// wire sends frames to a gateway.
type wire struct {
	*netlab.Raw
	from, to [6]byte
}

func (r *routed) wire(t *testing.T, n *netlab.Node, gateway *netlab.Router) *wire {
	t.Helper()
	raw, err := n.Raw("eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	from, err1 := n.MAC("eth0")
	to, err2 := gateway.MAC(netlab.RouterDown)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &wire{raw, [6]byte(from), [6]byte(to)}
}

func (r *routed) datagrams(t *testing.T, vip netip.AddrPort) *datagrams {
	t.Helper()
	v6 := vip.Addr().Is6()
	d := &datagrams{t: t, r: r, vip: vip, fromClient: r.wire(t, r.client, r.clientRouter), toServer: r.wire(t, r.server, r.serverRouter)}
	d.server = open(t, r.server.Namespace, unix.SOCK_DGRAM, v6)
	d.server.bind(netip.AddrPortFrom(r.server.Addr(v6), 8080))
	d.client = open(t, r.client.Namespace, unix.SOCK_DGRAM, v6)
	if err := errors.Join(d.client.connect(vip), d.client.send([]byte("hello"))); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*socket{d.client, d.server} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
			t.Fatal(err)
		}
	}
	_, seen, err := d.server.receive()
	if err != nil {
		t.Fatal(err)
	}
	d.seen = seen
	return d
}

// wantAt wants these datagrams at a socket, in any order, and no others.
func (d *datagrams) wantAt(what string, s *socket, from netip.AddrPort, want ...[]byte) {
	d.t.Helper()
	left := slices.Clone(want)
	for range want {
		b, who, err := s.receive()
		if err != nil {
			d.t.Errorf("%v: %s: %v", d.vip, what, err)
			return
		}
		i := slices.IndexFunc(left, func(w []byte) bool { return bytes.Equal(w, b) })
		if i < 0 || who != from {
			d.t.Errorf("%v: %s: %d bytes from %v, which nobody sent; want them from %v", d.vip, what, len(b), who, from)
			return
		}
		left = slices.Delete(left, i, i+1)
	}
}

// byTheKernel sends the longest datagrams there are, and shorter ones, there
// and back.
func (d *datagrams) byTheKernel() {
	d.t.Helper()
	longest := 65507
	if d.vip.Addr().Is6() {
		longest = 65527
	}
	for _, n := range []int{1473, 3000, 9000, longest} {
		b := random(n)
		if err := d.client.send(b); err != nil {
			d.t.Fatal(err)
		}
		d.wantAt(fmt.Sprintf("%d bytes there", n), d.server, d.seen, b)
		if err := d.server.sendTo(b, d.seen); err != nil {
			d.t.Fatal(err)
		}
		d.wantAt(fmt.Sprintf("%d bytes back", n), d.client, d.vip, b)
	}
}

// fragments cuts a datagram.
func (d *datagrams) fragments(w *wire, src, dst netip.AddrPort, b []byte, id uint32) [][]byte {
	d.t.Helper()
	frame, err := packet.Packet{Src: src, Dst: dst, Protocol: lb.UDP, Payload: b, SrcMAC: w.from, DstMAC: w.to}.Bytes()
	if err != nil {
		d.t.Fatal(err)
	}
	parts, err := packet.Fragment(frame, 1432, id)
	if err != nil {
		d.t.Fatal(err)
	}
	return parts
}

// byHand sends fragments in orders in which no kernel sends them.
func (d *datagrams) byHand() {
	d.t.Helper()
	id := uint32(1)
	for _, order := range []struct {
		name      string
		datagrams int
		size      int
		shuffle   func([][][]byte) [][]byte
	}{
		{"in order", 1, 20000, func(p [][][]byte) [][]byte { return p[0] }},
		{"reversed", 1, 65507, func(p [][][]byte) [][]byte { return reversed(p[0]) }},
		{"the first in the middle", 1, 20000, func(p [][][]byte) [][]byte { return slices.Concat(p[0][1:7], p[0][:1], p[0][7:]) }},
		{"interleaved", 3, 20000, interleaved},
		{"interleaved, reversed", 3, 20000, func(p [][][]byte) [][]byte { return reversed(interleaved(p)) }},
		{"twice each", 1, 20000, func(p [][][]byte) [][]byte { return twice(p[0]) }},
		{"twice each, reversed", 1, 20000, func(p [][][]byte) [][]byte { return reversed(twice(p[0])) }},
	} {
		var sent [][]byte
		var there, back [][][]byte
		for range order.datagrams {
			b := random(order.size)
			sent = append(sent, b)
			there = append(there, d.fragments(d.fromClient, d.client.local(), d.vip, b, id))
			back = append(back, d.fragments(d.toServer, netip.AddrPortFrom(d.r.server.Addr(d.vip.Addr().Is6()), 8080), d.seen, b, id))
			id++
		}
		for _, frame := range order.shuffle(there) {
			if err := d.fromClient.Send(frame); err != nil {
				d.t.Fatal(err)
			}
		}
		d.wantAt(order.name+" there", d.server, d.seen, sent...)
		for _, frame := range order.shuffle(back) {
			if err := d.toServer.Send(frame); err != nil {
				d.t.Fatal(err)
			}
		}
		d.wantAt(order.name+" back", d.client, d.vip, sent...)
	}
}

// withOptions sends fragments with destination options in the part that is cut,
// where RFC 8200 has them: each fragment announces them, not UDP.
func (d *datagrams) withOptions() {
	d.t.Helper()
	b := random(5000)
	for i, reverse := range []bool{false, true} {
		frame, err := packet.Packet{Src: d.client.local(), Dst: d.vip, Protocol: lb.UDP, Payload: b, SrcMAC: d.fromClient.from, DstMAC: d.fromClient.to}.Bytes()
		if err != nil {
			d.t.Fatal(err)
		}
		const next, head = 14 + 6, 14 + 40
		options := slices.Clone(destination.bytes)
		options[0], frame[next] = frame[next], unix.IPPROTO_DSTOPTS
		parts, err := packet.Fragment(slices.Concat(frame[:head], options, frame[head:]), 1432, 1000+uint32(i))
		if err != nil {
			d.t.Fatal(err)
		}
		if reverse {
			slices.Reverse(parts)
		}
		for _, part := range parts {
			if err := d.fromClient.Send(part); err != nil {
				d.t.Fatal(err)
			}
		}
		d.wantAt(fmt.Sprintf("options in the fragments, reversed=%v", reverse), d.server, d.seen, b)
	}
}

func reversed(in [][]byte) [][]byte {
	out := slices.Clone(in)
	slices.Reverse(out)
	return out
}

// interleaved takes a fragment of each datagram in turn.
func interleaved(in [][][]byte) (out [][]byte) {
	for i := range in[0] {
		for _, parts := range in {
			out = append(out, parts[i])
		}
	}
	return out
}

func twice(in [][]byte) (out [][]byte) {
	for _, f := range in {
		out = append(out, f, f)
	}
	return out
}

// ping sends an echo request of n bytes and wants them back.
func ping(t *testing.T, from *netlab.Node, to netip.Addr, n int) {
	t.Helper()
	protocol, kind := unix.IPPROTO_ICMP, byte(8)
	if to.Is6() {
		protocol, kind = unix.IPPROTO_ICMPV6, 128
	}
	s := openProtocol(t, from.Namespace, unix.SOCK_DGRAM, protocol, to.Is6())
	defer s.close()
	b := random(n)
	copy(b, []byte{kind, 0, 0, 0, 0, 0, 0, 1}) // the kernel fills in the checksum and its own identifier
	if err := errors.Join(s.connect(netip.AddrPortFrom(to, 0)), s.send(b)); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.receive()
	if err != nil || len(got) != n || !bytes.Equal(got[8:], b[8:]) {
		t.Errorf("%s pings %v with %d bytes: %d bytes came back, %v", from.Name, to, n, len(got), err)
	}
}

func TestFragmentsOfPingsAreTheStacks(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}, AssignVIPs: true})
	client, server := s.Clients()[0], s.Servers()[0]
	for _, n := range []*netlab.Node{client, server} {
		if err := n.SetSysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
			t.Fatal(err)
		}
	}
	s.write(serverIs(server).Replace(both("always")))
	s.start()
	for _, v6 := range []bool{false, true} {
		vip := of(v6, vips).Addr()
		for _, n := range []int{100, 5000} {
			ping(t, client, vip, n)
			ping(t, server, vip, n)
			ping(t, client, server.Addr(v6), n)
			ping(t, server, client.Addr(v6), n)
			ping(t, server, either(v6, server.Gateway4, server.Gateway6), n)
		}
	}
	if drops := s.dropped(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
}
