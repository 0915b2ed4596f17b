// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// masquerading is a service of both protocols and families at each of the
// VIPs, in YAML.
func masquerading(word string, vips []netip.AddrPort, servers ...*netlab.Node) string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for i, vip := range vips {
		fmt.Fprintf(&b, "- name: s%d\n  masquerade: %s\n  frontends: [\"%s/TCP\", \"%[3]s/UDP\"]\n  backends:\n", i, word, vip)
		for _, n := range servers {
			fmt.Fprintf(&b, "  - address: \"%s\"\n", netip.AddrPortFrom(n.Addr(vip.Addr().Is6()), 8080))
		}
		if len(servers) == 0 {
			b.WriteString("    []\n")
		}
	}
	return b.String()
}

// revealing is a lab whose servers reveal whom they see, with a daemon.
func revealing(t *testing.T, clients, servers int, word string) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: clients, Servers: servers, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	for _, srv := range s.Servers() {
		s.reveal(srv, 8080)
	}
	s.write(masquerading(word, vips, s.Servers()...))
	s.start()
	return s
}

// everyWay calls f for both families and protocols.
func everyWay(t *testing.T, f func(t *testing.T, network string, vip netip.AddrPort)) {
	for _, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			f(t, network, vip)
		}
	}
}

// gateway is the director's address on the node's link.
func gateway(n *netlab.Node, vip netip.AddrPort) netip.Addr {
	if vip.Addr().Is6() {
		return n.Gateway6
	}
	return n.Gateway4
}

// isolate takes a node's or a router's default routes away: it knows its own
// subnets only.
func (s *scene) isolate(n *netlab.Namespace) {
	s.t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.Netlink().RouteList(nil, family)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range routes {
			if r.Gw == nil {
				continue
			}
			if err := n.Netlink().RouteDel(&r); err != nil {
				s.t.Fatalf("remove route %v: %v", r, err)
			}
		}
	}
}

func TestMasqueradedServersSeeTheDirector(t *testing.T) {
	s := revealing(t, 1, 1, "always")
	client, server := s.Clients()[0], s.Servers()[0]
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		tk, err := call(client, network, 0, vip)
		if err != nil {
			t.Fatal(err)
		}
		defer tk.Close()
		if want := gateway(server, vip); tk.seen.Addr() != want {
			t.Errorf("%s to %s: the server sees %s, want %s", network, vip, tk.seen, want)
		}
		if err := tk.exchange(1 << 20); err != nil {
			t.Errorf("%s to %s: %v", network, vip, err)
		}
	})
	s.wantDrops("")
}

func TestAServerWithoutARouteBackIsReachedByMasqueradeOnly(t *testing.T) {
	s := revealing(t, 1, 1, "never")
	client, server := s.Clients()[0], s.Servers()[0]
	s.isolate(server.Namespace)
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		if tk, err := callWithin(time.Second, client, network, 0, vip); err == nil {
			tk.Close()
			t.Errorf("%s to %s: answered without masquerade", network, vip)
		}
	})
	s.write(masquerading("always", vips, server))
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		s.eventually("the server answers", func() error {
			tk, err := callWithin(time.Second, client, network, 0, vip)
			if err != nil {
				return err
			}
			defer tk.Close()
			return tk.exchange(1 << 20)
		})
	})
}

func TestMasqueradedClientsWithOneSourcePort(t *testing.T) {
	s := revealing(t, 3, 1, "always")
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		seen := make(map[netip.AddrPort]bool)
		var talks []*talk
		for _, c := range s.Clients() {
			tk, err := call(c, network, 5555, vip)
			if err != nil {
				t.Fatal(err)
			}
			defer tk.Close()
			seen[tk.seen] = true
			talks = append(talks, tk)
		}
		if len(seen) != 3 || !seen[netip.AddrPortFrom(gateway(s.Servers()[0], vip), 5555)] {
			t.Errorf("%s to %s: seen as %v, want three ports, the clients' own first", network, vip, seen)
		}
		for range 3 {
			for _, tk := range talks {
				if err := tk.exchange(64 << 10); err != nil {
					t.Errorf("%s to %s as %s: %v", network, vip, tk.seen, err)
				}
			}
		}
	})
}

func TestAServerReachesItselfThroughTheVIP(t *testing.T) {
	for _, word := range []string{"never", "always"} {
		t.Run(word, func(t *testing.T) {
			s := revealing(t, 0, 1, word)
			server := s.Servers()[0]
			everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
				for range 3 {
					tk, err := call(server, network, 0, vip)
					if err != nil {
						t.Fatal(err)
					}
					if tk.seen.Addr() != gateway(server, vip) {
						t.Errorf("%s to %s: it sees %s as the client", network, vip, tk.seen)
					}
					if err := tk.exchange(1 << 20); err != nil {
						t.Errorf("%s to %s: %v", network, vip, err)
					}
					tk.Close()
				}
			})
		})
	}
}

// A firewall that counts what conntrack thinks of forwarded packets and lets
// only what it knows or begins pass.
const firewall = `table inet lab {
	counter invalid { }
	counter known { }
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid counter name invalid drop
		ct state established,related counter name known accept
		ct state new accept
	}
}
`

func (s *scene) nft(stdin string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("nft", args...)
	var out, bad bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &bad
	if err := s.Director.Run(cmd); err != nil {
		s.t.Fatalf("nft %v: %v\n%s", args, err, bad.String())
	}
	return out.String()
}

// counted is a counter of the firewall.
func (s *scene) counted(name string) int {
	s.t.Helper()
	text := s.nft("", "list", "counter", "inet", "lab", name)
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(text)
	if m == nil {
		s.t.Fatalf("no packets in %q", text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestConntrackFindsNoTranslatedPacketInvalid(t *testing.T) {
	for _, word := range []string{"never", "always"} {
		t.Run(word, func(t *testing.T) {
			s := revealing(t, 2, 1, word)
			s.nft(firewall, "-f", "-")
			server := s.Servers()[0]
			everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
				to := netip.AddrPortFrom(server.Addr(vip.Addr().Is6()), 8080)
				for _, c := range []struct {
					from *netlab.Node
					to   netip.AddrPort
				}{
					{s.Clients()[0], vip}, {s.Clients()[1], vip}, // one port for both
					{s.Clients()[0], to}, // and for the server itself
					{server, vip},
				} {
					tk, err := call(c.from, network, 6666, c.to)
					if err != nil {
						t.Fatalf("from %s: %v", c.from.Name, err)
					}
					defer tk.Close()
					if err := tk.exchange(256 << 10); err != nil {
						t.Errorf("%s to %s: %v", network, c.to, err)
					}
				}
			})
			if n := s.counted("invalid"); n != 0 {
				t.Errorf("conntrack found %d packets invalid", n)
			}
			if s.counted("known") < 1000 {
				t.Error("conntrack saw nothing")
			}
		})
	}
}

// drops are the reasons and packets that `waggle stats` shows.
func (s *scene) drops() map[string]uint64 {
	s.t.Helper()
	var stats struct {
		Drops []struct {
			Reason  string
			Packets uint64
		}
	}
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &stats); err != nil {
		s.t.Fatal(err)
	}
	out := make(map[string]uint64)
	for _, d := range stats.Drops {
		if d.Packets > 0 {
			out[d.Reason] = d.Packets
		}
	}
	return out
}

// wantDrops wants packets to be dropped for this reason and no other; "": none.
func (s *scene) wantDrops(reason string) {
	s.t.Helper()
	got := s.drops()
	if reason != "" && got[reason] == 0 {
		s.t.Errorf("no packet was dropped as %s", reason)
	}
	delete(got, reason)
	if len(got) > 0 {
		s.t.Errorf("dropped: %v", got)
	}
}

func TestMasqueradedConnectionsOutliveTheDaemonAndTheWord(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 2})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
		s.isolate(srv.Namespace)
	}
	s.write(masquerading("always", vips, s.Servers()...))
	s.start()
	var streams []*stream
	for i := range 6 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	s.kill()
	s.goesOn(streams)
	if err := s.never("nobody"); err != nil { // new connections are masqueraded with the daemon dead
		t.Error(err)
	}
	s.start()
	s.goesOn(streams)
	s.write(masquerading("never", vips, s.Servers()[0]))
	s.eventually("new connections are not masqueraded", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := s.Clients()[0].Dial(ctx, "tcp", vip4.String())
		if err != nil {
			return nil // the server has no route to the client
		}
		c.Close()
		return errors.New("they are")
	})
	s.goesOn(streams)
	s.finish(streams)
}

func TestAServerThatAppearsSeesTheDirector(t *testing.T) {
	s := revealing(t, 1, 1, "always")
	server, err := s.AddServer()
	if err != nil {
		t.Fatal(err)
	}
	s.isolate(server.Namespace)
	s.reveal(server, 8080)
	s.write(masquerading("always", vips, server))
	everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
		s.eventually("the new server answers", func() error {
			tk, err := callWithin(time.Second, s.Clients()[0], network, 0, vip)
			if err != nil {
				return err
			}
			defer tk.Close()
			if want := gateway(server, vip); tk.seen.Addr() != want {
				return fmt.Errorf("%s to %s: the server sees %s, want %s", network, vip, tk.seen, want)
			}
			return tk.exchange(64 << 10)
		})
	})
}
