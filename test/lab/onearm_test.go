// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// oneArm is a lab in which director, client and server are on one bridge and
// in one subnet, so that what the director forwards leaves by the device that
// it came by.
type oneArm struct {
	*scene
	client, server *netlab.Node
}

func newOneArm(t *testing.T, word string) *oneArm {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab"})
	lab := &oneArm{scene: s}
	sw, err := s.AddNamespace("switch")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "br0", net.FlagUp
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := sw.Netlink().LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	director := lab.plug(sw, bridge, s.Director, 1)
	ns, err := s.AddNamespace("client")
	if err != nil {
		t.Fatal(err)
	}
	lab.client = lab.plug(sw, bridge, ns, 2)
	if ns, err = s.AddNamespace("server"); err != nil {
		t.Fatal(err)
	}
	lab.server = lab.plug(sw, bridge, ns, 3)
	for _, n := range []*netlab.Node{lab.client, lab.server} {
		lab.through(n, director)
		for _, name := range []string{"all", "eth0"} { // a host that would take redirects
			lab.sysctl(n.Namespace, "net/ipv4/conf/"+name+"/accept_redirects", "1")
		}
	}
	for _, name := range []string{"all", "eth0"} {
		lab.sysctl(s.Director, "net/ipv4/conf/"+name+"/send_redirects", "1")
	}
	s.reveal(lab.server, 8080)
	s.write(masquerading(word, vips, lab.server))
	s.start()
	return lab
}

func (lab *oneArm) sysctl(n *netlab.Namespace, name, value string) {
	lab.t.Helper()
	if err := n.SetSysctl(name, value); err != nil {
		lab.t.Fatal(err)
	}
}

// plug connects a namespace to the bridge, with host h's addresses.
func (lab *oneArm) plug(sw *netlab.Namespace, bridge netlink.Link, ns *netlab.Namespace, h byte) *netlab.Node {
	lab.t.Helper()
	n := &netlab.Node{
		Namespace: ns, Device: "eth0",
		V4: netip.AddrFrom4([4]byte{198, 18, 200, h}), V6: netip.AddrFrom16([16]byte{0: 0xfd, 3: 0xaa, 15: h}),
		Gateway4: netip.AddrFrom4([4]byte{198, 18, 200, 1}), Gateway6: netip.AddrFrom16([16]byte{0: 0xfd, 3: 0xaa, 15: 1}),
	}
	port := fmt.Sprintf("port%d", h)
	if err := netlab.AddDevice(sw, port, ns, "eth0"); err != nil {
		lab.t.Fatal(err)
	}
	link, err := sw.Netlink().LinkByName(port)
	if err != nil {
		lab.t.Fatal(err)
	}
	if err := sw.Netlink().LinkSetMaster(link, bridge); err != nil {
		lab.t.Fatal(err)
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(n.V4, 24), netip.PrefixFrom(n.V6, 64)} {
		if err := ns.AddAddr("eth0", p); err != nil {
			lab.t.Fatal(err)
		}
	}
	return n
}

// through makes the director the way of a node to everybody, its neighbours
// too: without that they would answer each other past it.
func (lab *oneArm) through(n, director *netlab.Node) {
	lab.t.Helper()
	index, err := n.Ifindex("eth0")
	if err != nil {
		lab.t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		host := netip.PrefixFrom(director.Addr(v6), director.Addr(v6).BitLen())
		bits := 24
		if v6 {
			bits = 64
		}
		subnet := netip.PrefixFrom(director.Addr(v6), bits).Masked()
		for _, r := range []*netlink.Route{
			{LinkIndex: index, Dst: ipnet(host), Scope: netlink.SCOPE_LINK},
			{LinkIndex: index, Dst: ipnet(subnet), Gw: director.Addr(v6).AsSlice(), Priority: 1},
			{LinkIndex: index, Gw: director.Addr(v6).AsSlice()},
		} {
			if err := n.Netlink().RouteAdd(r); err != nil {
				lab.t.Fatalf("add route %v: %v", r, err)
			}
		}
		lab.dropLinkRoute(n, subnet)
	}
}

// dropLinkRoute removes the route that came with the address.
func (lab *oneArm) dropLinkRoute(n *netlab.Node, subnet netip.Prefix) {
	lab.t.Helper()
	routes, err := n.Netlink().RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		lab.t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL || r.Dst == nil || r.Dst.String() != subnet.String() {
			continue
		}
		if err := n.Netlink().RouteDel(&r); err != nil {
			lab.t.Fatalf("remove route %v: %v", r, err)
		}
		return
	}
	lab.t.Fatalf("%s has no route to %s", n.Name, subnet)
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// redirects is how many ICMP redirects of each family came to the node, by its
// stack's count.
func (lab *oneArm) redirects(n *netlab.Node) (v4, v6 int) {
	lab.t.Helper()
	var snmp, snmp6 []byte
	err := n.Do(func() (err error) {
		if snmp, err = os.ReadFile("/proc/thread-self/net/snmp"); err != nil {
			return err
		}
		snmp6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		return err
	})
	if err != nil {
		lab.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Icmp: (.*)\nIcmp: (.*)$`).FindSubmatch(snmp)
	if m == nil {
		lab.t.Fatalf("no ICMP in\n%s", snmp)
	}
	column := slices.Index(strings.Fields(string(m[1])), "InRedirects")
	v4, err = strconv.Atoi(strings.Fields(string(m[2]))[column])
	if err != nil {
		lab.t.Fatal(err)
	}
	if m = regexp.MustCompile(`(?m)^Icmp6InRedirects\s+(\d+)$`).FindSubmatch(snmp6); m == nil {
		lab.t.Fatalf("no redirects in\n%s", snmp6)
	}
	v6, err = strconv.Atoi(string(m[1]))
	if err != nil {
		lab.t.Fatal(err)
	}
	return v4, v6
}

func TestInOneArmNobodyIsRedirectedPastTheDirector(t *testing.T) {
	for _, word := range []string{"never", "always"} {
		t.Run(word, func(t *testing.T) {
			lab := newOneArm(t, word)
			everyWay(t, func(t *testing.T, network string, vip netip.AddrPort) {
				tk, err := call(lab.client, network, 0, vip)
				if err != nil {
					t.Fatal(err)
				}
				defer tk.Close()
				if want := lab.server.Addr(vip.Addr().Is6()).Prev().Prev(); word == "always" && tk.seen.Addr() != want {
					t.Errorf("%s to %s: the server sees %s, want %s", network, vip, tk.seen, want)
				}
				if err := tk.exchange(1 << 20); err != nil {
					t.Errorf("%s to %s: %v", network, vip, err)
				}
			})
			for _, n := range []*netlab.Node{lab.client, lab.server} {
				if v4, v6 := lab.redirects(n); v4+v6 > 0 {
					t.Errorf("%s got %d redirects of IPv4 and %d of IPv6", n.Name, v4, v6)
				}
			}
			lab.wantDrops("redirect")
			// what is none of waggle's is redirected as ever
			for _, c := range [][2]*netlab.Node{{lab.client, lab.server}, {lab.server, lab.client}} {
				// by turns: the kernel grants the two of them one redirect a second
				lab.eventually(c[0].Name+" is redirected", func() error {
					for _, v6 := range []bool{false, true} {
						lab.shout(c[0], netip.AddrPortFrom(c[1].Addr(v6), 9))
					}
					if v4, v6 := lab.redirects(c[0]); v4 == 0 || v6 == 0 {
						return fmt.Errorf("%d redirects of IPv4, %d of IPv6", v4, v6)
					}
					return nil
				})
			}
		})
	}
}

// shout sends a datagram that nobody wants.
func (lab *oneArm) shout(from *netlab.Node, to netip.AddrPort) {
	lab.t.Helper()
	c, err := from.Dial(lab.t.Context(), "udp", to.String())
	if err != nil {
		lab.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("!")); err != nil {
		lab.t.Fatal(err)
	}
}
