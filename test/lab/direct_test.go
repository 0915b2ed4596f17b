// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// together exchanges data by turns on talks of one client port, which the
// server must tell apart.
func together(t *testing.T, talks ...*talk) {
	t.Helper()
	seen := make(map[netip.AddrPort]bool)
	for _, tk := range talks {
		seen[tk.seen] = true
	}
	if len(seen) != len(talks) {
		t.Errorf("%d talks look to the server like %d", len(talks), len(seen))
	}
	for range 3 {
		for _, tk := range talks {
			if err := tk.exchange(64 << 10); err != nil {
				t.Errorf("%s -> %s, seen as %s: %v", tk.LocalAddr(), tk.RemoteAddr(), tk.seen, err)
			}
		}
	}
}

// callAgain is call from a port that was just given back: its former
// connection may be in TIME_WAIT here.
func (s *scene) callAgain(from *netlab.Node, network string, port uint16, to netip.AddrPort) (tk *talk) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s to %s from port %d", network, to, port), func() (err error) {
		tk, err = call(from, network, port, to)
		return err
	})
	s.t.Cleanup(func() { tk.Close() })
	return tk
}

// reset closes a TCP connection by RST.
func (tk *talk) reset(t *testing.T) {
	t.Helper()
	if c, ok := tk.Conn.(*net.TCPConn); ok {
		if err := c.SetLinger(0); err != nil {
			t.Error(err)
		}
	}
	tk.Close()
}

// TestTheVIPAndItsServerFromOneClientPort: to the server, and to what rewrites
// its replies, both look alike.
func TestTheVIPAndItsServerFromOneClientPort(t *testing.T) {
	for _, word := range []string{"never", "always"} {
		for _, vipFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("masquerade=%s/vipFirst=%v", word, vipFirst), func(t *testing.T) {
				s := revealing(t, 1, 1, word)
				client := s.Clients()[0]
				// or a port in TIME_WAIT would be nobody's for a minute
				for _, n := range []*netlab.Node{client, s.Servers()[0]} {
					if err := n.SetSysctl("net/ipv4/tcp_tw_reuse", "1"); err != nil {
						t.Fatal(err)
					}
				}
				everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
					first, second := vip, netip.AddrPortFrom(s.Servers()[0].Addr(vip.Addr().Is6()), 8080)
					if !vipFirst {
						first, second = second, first
					}
					s.oneByOne(client, network, first, second)
				})
				s.wantDrops("")
			})
		}
	}
}

// oneByOne opens two talks from one port and lets them end in different ways,
// again and again.
func (s *scene) oneByOne(client *netlab.Node, network string, first, second netip.AddrPort) {
	s.t.Helper()
	a := s.callAgain(client, network, 7777, first)
	b := s.callAgain(client, network, 7777, second)
	together(s.t, a, b)
	a.reset(s.t)
	together(s.t, b)
	a = s.callAgain(client, network, 7777, first)
	together(s.t, a, b)
	b.Close()
	together(s.t, a)
	b = s.callAgain(client, network, 7777, second)
	together(s.t, a, b)
	a.Close()
	b.Close()
	a = s.callAgain(client, network, 7777, first)
	b = s.callAgain(client, network, 7777, second)
	together(s.t, a, b)
	a.reset(s.t)
	b.reset(s.t)
}

func TestTwoVIPsOfOneServerFromOneClientPort(t *testing.T) {
	for _, word := range []string{"never", "always"} {
		t.Run(word, func(t *testing.T) {
			s := revealing(t, 1, 1, word)
			more := []netip.AddrPort{
				netip.AddrPortFrom(netlab.VIP4.Next(), 80), netip.AddrPortFrom(netlab.VIP6.Next(), 80),
			}
			s.write(masquerading(word, append(more, vips...), s.Servers()...))
			client := s.Clients()[0]
			everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
				other := netip.AddrPortFrom(vip.Addr().Next(), vip.Port())
				s.oneByOne(client, network, vip, other)
			})
			s.wantDrops("")
		})
	}
}
