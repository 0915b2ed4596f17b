// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// askers are the namespaces of a scene from which its VIPs are asked: the machine's
// own, and a pod's.
func (s *scene) askers() map[string]*netlab.Namespace {
	return map[string]*netlab.Namespace{"host": s.Director, "pod": s.Clients()[0].Namespace}
}

// Sockets of IPv6 that ask for an IPv4 address are led as those of IPv4, and are told
// addresses of their own kind.
func TestMappedSocketsAreLed(t *testing.T) {
	s := ledScene(t, "all")
	for where, n := range s.askers() {
		t.Run(where, func(t *testing.T) {
			seen := map[string]bool{}
			for range 2 {
				tcp := rawSocketIn(t, n, unix.AF_INET6, unix.SOCK_STREAM, 0)
				tcp.must(vip4)
				seen[tcp.greeted()] = true
				tcp.wantPeer(vip4)
			}
			if len(seen) != 2 {
				t.Errorf("two connections came to %v, want both servers", seen)
			}
			udp := rawSocketIn(t, n, unix.AF_INET6, unix.SOCK_DGRAM, 0)
			first := udp.asks(vip4)
			if again := udp.asks(vip4); again != first {
				t.Errorf("the second datagram came to %s, the first to %s", again, first)
			}
			udp.must(vip4)
			udp.wantPeer(vip4)
			udp.write("?")
			if _, rest, from := udp.receive(); rest != "?" || from != udp.as(vip4) {
				t.Errorf("connected, the answer %q is from %s", rest, from)
			}
		})
	}
}

// What no backend can take is refused at once, as nobody would have to wait for it.
func TestLedSocketsAreRefused(t *testing.T) {
	s := ledScene(t, "all")
	unknown := []netip.AddrPort{netip.AddrPortFrom(vip4.Addr(), 81), netip.AddrPortFrom(vip6.Addr(), 81)}
	s.wantRefusals(unknown)
	s.edit(s.text()) // services without a backend
	s.wantRefusals(vips)
}

func (s *scene) wantRefusals(at []netip.AddrPort) {
	s.t.Helper()
	for where, n := range s.askers() {
		for _, to := range at {
			for _, domain := range []int{domainOf(to), unix.AF_INET6} {
				c := rawSocketIn(s.t, n, domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				if err := c.connect(to); !errors.Is(err, unix.ECONNREFUSED) {
					s.t.Errorf("%s: TCP to %s: %v, want %v at once", where, to, err, unix.ECONNREFUSED)
				}
				if where == "pod" {
					continue // its datagrams are led on their way
				}
				u := rawSocketIn(s.t, n, domain, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
				if err := u.connect(to); !errors.Is(err, unix.ECONNREFUSED) {
					s.t.Errorf("%s: connect UDP to %s: %v, want %v", where, to, err, unix.ECONNREFUSED)
				}
				if err := u.send("?", to); !errors.Is(err, unix.ECONNREFUSED) {
					s.t.Errorf("%s: a datagram to %s: %v, want %v", where, to, err, unix.ECONNREFUSED)
				}
			}
		}
	}
}

// A socket that was refused, or was disconnected, may go elsewhere, to what is no VIP
// too; and counts where it is.
func TestASocketConnectsAgain(t *testing.T) {
	s := ledScene(t, "all")
	server := s.Servers()[1]
	for where, n := range s.askers() {
		for _, vip := range vips {
			t.Run(where+" "+vip.String(), func(t *testing.T) {
				c := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
				for range 2 {
					if err := c.connect(netip.AddrPortFrom(vip.Addr(), 81)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Fatalf("to an unknown port: %v, want %v", err, unix.ECONNREFUSED)
					}
				}
				for range 2 {
					if err := c.connect(vip); !errors.Is(err, unix.EINPROGRESS) {
						t.Fatalf("to the VIP: %v, want %v", err, unix.EINPROGRESS)
					}
					if err := c.connected(); err != nil {
						t.Fatal(err)
					}
					c.wantPeer(vip)
					s.holds(1)
					c.disconnect()
				}
				direct := netip.AddrPortFrom(server.Addr(vip.Addr().Is6()), 8080)
				if err := c.connect(direct); !errors.Is(err, unix.EINPROGRESS) {
					t.Fatalf("to a server: %v, want %v", err, unix.EINPROGRESS)
				}
				if err := c.connected(); err != nil {
					t.Fatal(err)
				}
				c.wantPeer(direct)
				s.holds(0)
				c.close()
			})
		}
	}
}

// Affinity keeps sockets, those that are not bound too, from when it is said until it
// is no more.
func TestAffinityOfSocketsComesAndGoes(t *testing.T) {
	s := ledScene(t, "all")
	plain := s.text(s.Servers()...)
	kept := strings.ReplaceAll(plain, "-s rr\n", "-s rr -p 300\n")
	for _, step := range []struct {
		rules string
		both  bool
	}{{plain, true}, {kept, false}, {plain, true}, {kept, false}} {
		s.write(step.rules)
		for _, n := range s.askers() {
			for _, vip := range vips {
				s.eventually(fmt.Sprintf("both servers: %v", step.both), func() error {
					seen := map[string]bool{}
					for range 6 {
						c := rawSocketIn(t, n, domainOf(vip), unix.SOCK_STREAM, 0)
						c.must(vip)
						c.wantPeer(vip)
						seen[c.greeted()] = true
						c.close()
					}
					if (len(seen) == 2) != step.both {
						return fmt.Errorf("connections to %s came to %v", vip, seen)
					}
					return nil
				})
			}
		}
	}
}

// A socket that was led stays so, whatever becomes of its backend before the first
// packet: the backend is still there.
func TestABackendIsRemovedBeforeTheFirstPacket(t *testing.T) {
	s := ledScene(t, "all")
	for where, n := range s.askers() {
		t.Run(where, func(t *testing.T) {
			answers := func(want string) error {
				other := rawSocketIn(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
				defer other.close()
				other.must(vip4)
				if name := other.greeted(); name != want {
					return fmt.Errorf("%s answers", name)
				}
				return nil
			}
			s.write(s.text(s.Servers()[0]))
			s.eventually("the first server serves alone", func() error { return errors.Join(s.serving(1), answers("server0")) })
			c := rawSocketIn(t, n, unix.AF_INET, unix.SOCK_STREAM, 0)
			const noCookie = 34 // TCP_FASTOPEN_NO_COOKIE: the first packet goes with the first byte
			if err := errors.Join(unix.SetsockoptInt(c.fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1), unix.SetsockoptInt(c.fd, unix.SOL_TCP, noCookie, 1)); err != nil {
				t.Fatal(err)
			}
			c.must(vip4)
			s.write(s.text(s.Servers()[1]))
			s.eventually("the other serves, and the first has what it had", func() error { return answers("server1") })
			c.write("?")
			if name := c.greeted(); name != "server0" {
				t.Errorf("%s answers, want server0", name)
			}
			c.wantPeer(vip4)
		})
	}
}

// serving wants so many backends in service for each VIP and protocol.
func (s *scene) serving(want int) error {
	serving := 0
	for _, b := range s.items("backends") {
		if b["state"] == "active" {
			serving++
		}
	}
	if serving != 4*want {
		return fmt.Errorf("%d backends serve, want %d", serving, 4*want)
	}
	return nil
}
