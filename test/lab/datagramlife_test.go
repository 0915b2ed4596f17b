// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// otherVIP is one more than those of the rules of most scenes.
func otherVIP(vip netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(vip.Addr().Next(), vip.Port())
}

// twoVIPs are rules for a VIP with these servers, and for the next one with those.
func (s *scene) twoVIPs(vip netip.AddrPort, one, two []*netlab.Node) string {
	return textAt([]netip.AddrPort{vip}, "rr", one...) + textAt([]netip.AddrPort{otherVIP(vip)}, "rr", two...)
}

// One socket asks two VIPs by turns. It stays with its backend of each, each answers
// as itself, and it counts once.
func TestOneSocketAsksTwoVIPs(t *testing.T) {
	s := ledScene(t, "all")
	both := s.Servers()
	for _, vip := range vips {
		t.Run(vip.Addr().String(), func(t *testing.T) {
			other := otherVIP(vip)
			s.write(s.twoVIPs(vip, both, both))
			u := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
			u.learns(s, other)
			// rr begins with the last line: another order would be as good
			first, second := u.asks(vip), u.asks(other)
			for range 5 {
				if a, b := u.asks(vip), u.asks(other); a != first || b != second {
					t.Fatalf("went to %s and %s, before to %s and %s", a, b, first, second)
				}
			}
			s.holds(1)
			gone, left := both[0], both[1]
			if second == "server1" {
				gone, left = left, gone
			}
			s.write(s.twoVIPs(vip, both, []*netlab.Node{left}))
			s.eventually("it leaves the backend that is removed", func() error {
				if a := u.asks(vip); a != first {
					t.Fatalf("the other VIP's went to %s, before to %s", a, first)
				}
				if b := u.asks(other); b == second {
					return fmt.Errorf("%s answers, which does not serve %s", b, gone.Name)
				}
				return nil
			})
			s.holds(1)
			u.close()
			s.holds(0)
		})
	}
}

// learns asks until the daemon serves the VIP.
func (s *rawSocket) learns(at *scene, vip netip.AddrPort) {
	s.t.Helper()
	at.eventually(fmt.Sprintf("%s is served", vip), func() error {
		probe := rawSocketIn(s.t, at.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
		defer probe.close()
		if err := probe.send("?", vip); err != nil {
			return err
		}
		probe.receive()
		return nil
	})
}

// A socket that was silent for as long as a flow of UDP lives is led anew, though its
// backend is still there.
func TestASilentSocketIsLedAnew(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "silent", Servers: 2})
	const life = time.Second
	s.lead("all", s.Director)
	s.args = []string{"--ipvs-udp-timeout", life.String()}
	for i, n := range s.Servers() {
		s.serve(n, fmt.Sprintf("server%d", i), 8080)
	}
	s.write(s.text(s.Servers()...))
	s.start()
	for _, vip := range vips {
		u := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
		first := u.asks(vip)
		time.Sleep(2 * life)
		if again := u.asks(vip); again == first {
			t.Errorf("after twice the timeout it is still at %s", first)
		}
		s.holds(1)
		u.close()
	}
}

// What others send to a socket that was led is from themselves.
func TestOthersDatagramsAreTheirOwn(t *testing.T) {
	s := ledScene(t, "all")
	client := s.Clients()[0]
	for _, vip := range vips {
		v6 := vip.Addr().Is6()
		u := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
		u.asks(vip)
		own, err := unix.Getsockname(u.fd)
		if err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(client.Gateway4, told(own).Port())
		if v6 {
			at = netip.AddrPortFrom(client.Gateway6, told(own).Port())
		}
		c, err := client.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(client.Addr(v6), 5353).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = client.Do(func() error {
			_, err := c.WriteTo([]byte("stranger"), netAddr(at))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := netip.AddrPortFrom(client.Addr(v6), 5353)
		if name, _, from := u.receive(); name != "stranger" || from != want {
			t.Errorf("%q is from %s, want %s", name, from, want)
		}
		// a server that it did not ask by a VIP is itself, too
		direct := netip.AddrPortFrom(s.Servers()[0].Addr(v6), 8080)
		plain := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
		plain.asks(direct)
		u.asks(vip)
	}
}

// A socket of UDP that is connected is the VIP's, and stays with it when another
// connect is refused.
func TestConnectedDatagrams(t *testing.T) {
	s := ledScene(t, "all")
	for _, vip := range vips {
		u := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_DGRAM, 0)
		u.must(vip)
		for range 2 {
			u.wantPeer(vip)
			u.write("?")
			if _, rest, from := u.receive(); rest != "?" || from != vip {
				t.Errorf("the answer %q is from %s, want %s", rest, from, vip)
			}
			s.holds(1)
			if err := u.connect(netip.AddrPortFrom(vip.Addr(), 81)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("an unknown port: %v, want %v", err, unix.ECONNREFUSED)
			}
		}
		u.disconnect()
		direct := netip.AddrPortFrom(s.Servers()[0].Addr(vip.Addr().Is6()), 8080)
		u.must(direct)
		u.wantPeer(direct)
		s.holds(0)
		u.close()
	}
}

// A socket that asks a service of single datagrams between others counts for the
// others, once.
func TestSingleDatagramsDoNotCount(t *testing.T) {
	s := ledScene(t, "all")
	other := otherVIP(vip4)
	single := strings.Replace(s.twoVIPs(vip4, s.Servers(), s.Servers()), fmt.Sprintf("-A -u %s -s rr", other), fmt.Sprintf("-A -u %s -s rr -o", other), 1)
	s.write(single)
	u := rawSocketIn(t, s.Director, unix.AF_INET, unix.SOCK_DGRAM, 0)
	u.learns(s, other)
	first := u.asks(vip4)
	s.holds(1)
	seen := map[string]bool{}
	for range 4 {
		seen[u.asks(other)] = true
	}
	if len(seen) != 2 {
		t.Errorf("single datagrams went to %v, want both servers", seen)
	}
	s.holds(0)
	if again := u.asks(vip4); again != first {
		t.Errorf("it went to %s, before to %s", again, first)
	}
	s.holds(1)
}

// A socket that connects to a server itself is told so, though it was led there before.
func TestAConnectedSocketForgetsVIPs(t *testing.T) {
	s := ledScene(t, "all")
	s.write(s.twoVIPs(vip4, s.Servers()[:1], s.Servers()[1:]))
	other := otherVIP(vip4)
	u := rawSocketIn(t, s.Director, unix.AF_INET, unix.SOCK_DGRAM, 0)
	u.learns(s, other)
	for _, vip := range []netip.AddrPort{vip4, other, vip4} {
		u.asks(vip)
	}
	for _, server := range s.Servers() {
		direct := netip.AddrPortFrom(server.V4, 8080)
		u.must(direct)
		u.wantPeer(direct)
		u.write("?")
		if _, _, from := u.receive(); from != direct {
			t.Errorf("the answer is from %s, want %s", from, direct)
		}
	}
	u.disconnect()
	u.asks(vip4)
}

// Where the pick is by the client's port, the machine's sockets are spread though
// theirs is chosen later.
func TestPortsThatAreChosenLaterSpread(t *testing.T) {
	s := ledScene(t, "all")
	s.edit(strings.ReplaceAll(s.text(s.Servers()...), "-s rr\n", "-s sh -b sh-port\n"))
	for _, vip := range vips {
		for name, kind := range map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM} {
			s.eventually(fmt.Sprintf("%s to %s spreads", name, vip), func() error {
				seen := map[string]bool{}
				for range 40 {
					c := rawSocketIn(t, s.Director, domainOf(vip), kind, 0)
					c.must(vip)
					if kind == unix.SOCK_DGRAM {
						c.write("?")
						who, _, _ := c.receive()
						seen[who] = true
					} else {
						seen[c.greeted()] = true
					}
					c.close()
				}
				if len(seen) != 2 {
					return fmt.Errorf("40 sockets came to %v", seen)
				}
				return nil
			})
		}
	}
}
