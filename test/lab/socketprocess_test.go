// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// No connect fails, and none is led astray, while configurations follow each other,
// and daemons.
func TestConnectsGoOnThroughSwaps(t *testing.T) {
	s := ledScene(t, "all")
	var busy []*helper
	for _, n := range s.askers() {
		busy = append(busy, startHelper(t, n, "connect", nil, vip4.String(), vip6.String()))
	}
	for round := range 3 {
		s.kill()
		s.start() // which builds a generation of its own
		s.edit(s.text(s.Servers()...) + manyRules(200<<(2*round)))
	}
	for _, h := range busy {
		h.ends()
	}
	s.holds(0)
}

// manyRules are so many services beside those that are asked.
func manyRules(n int) string {
	var b strings.Builder
	for i := range n {
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 200 + byte(i>>8), byte(i)}), 80)
		fmt.Fprintf(&b, "-A -t %s -s rr\n-a -t %s -r 198.19.77.7:80 -m -w 1\n", vip, vip)
	}
	return b.String()
}

// Of many sockets that lived for a moment nothing is left.
func TestShortSocketsLeaveNothing(t *testing.T) {
	s := ledScene(t, "all")
	var busy []*helper
	for where, n := range s.askers() {
		kinds := map[string]string{"host": "all", "pod": "tcp"}[where]
		for range 3 {
			busy = append(busy, startHelper(t, n, "shortly", nil, kinds, vip4.String(), vip6.String()))
		}
	}
	for _, h := range busy {
		h.ends()
	}
	s.holds(0)
	peers, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, "socket_peers"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer peers.Close()
	n := uint32(0)
	err = batch.Each(peers, func(bpf.LBSocketPeer, *bpf.LBSocket) error { n++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 || n > peers.MaxEntries() {
		t.Errorf("socket_peers has %d entries, want some, at most %d", n, peers.MaxEntries())
	}
}

// A connection counts as long as one of the processes that have it.
func TestAnInheritedSocketCountsOnce(t *testing.T) {
	s := ledScene(t, "all")
	for where, n := range s.askers() {
		t.Run(where, func(t *testing.T) {
			c := rawSocketIn(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
			c.must(vip4)
			c.greeted()
			copied, err := unix.Dup(c.fd)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(copied), "connection")
			h := startHelper(t, n, "inherits", []*os.File{f})
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			c.close()
			s.holds(1)
			h.ends()
			if h.said.String() != "echoed\n" {
				t.Errorf("the process says %q", h.said.String())
			}
			s.holds(0)
		})
	}
}

// TCP that sends with its first packet is led as it connects, by either call.
func TestFastOpenIsLed(t *testing.T) {
	s := ledScene(t, "all")
	for where, n := range s.askers() {
		for _, vip := range vips {
			c := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM, 0)
			if err := unix.Sendto(c.fd, []byte("?"), unix.MSG_FASTOPEN, c.address(vip)); err != nil {
				t.Fatalf("%s: send to %s: %v", where, vip, err)
			}
			c.greeted()
			c.wantPeer(vip)
			later := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM, 0)
			if err := unix.SetsockoptInt(later.fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
				t.Fatal(err)
			}
			later.must(vip)
			later.write("?")
			later.greeted()
			later.wantPeer(vip)
			s.holds(2)
			refused := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM, 0)
			at := netip.AddrPortFrom(vip.Addr(), 81)
			if err := unix.Sendto(refused.fd, []byte("?"), unix.MSG_FASTOPEN, refused.address(at)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: send to %s: %v, want %v", where, at, err, unix.ECONNREFUSED)
			}
			c.close()
			later.close()
			s.holds(0)
		}
	}
}

// The subflow of a socket of MPTCP is the kernel's: the machine's own is led, and a
// pod's packets are. Neither counts as a socket.
func TestMPTCPComesToABackend(t *testing.T) {
	s := ledScene(t, "all")
	for where, n := range s.askers() {
		if on, err := n.Sysctl("net/mptcp/enabled"); err != nil || on != "1" {
			t.Logf("this kernel has no MPTCP (%q, %v)", on, err)
			return
		}
		for _, vip := range vips {
			c := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
			c.must(vip)
			if name := c.greeted(); !strings.HasPrefix(name, "server") {
				t.Errorf("%s: %s greets", where, name)
			}
		}
	}
}
