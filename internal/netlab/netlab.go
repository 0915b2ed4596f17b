// SPDX-License-Identifier: Apache-2.0

// Package netlab builds small networks out of network namespaces, for tests
// that need a real kernel and for `waggle demo`. A lab has one director, with
// one veth pair to each client and to each real server:
//
//	client1 198.18.1.2 ── .1 ┐          ┌ .1 ── 198.19.1.2 server1
//	client2 198.18.2.2 ── .1 ┤ director ├ .1 ── 198.19.2.2 server2
//	                         ┘          └
//
// Every pair is a subnet of its own: 198.18.N.0/24 and fd00:c:N::/64 for
// client N, 198.19.N.0/24 and fd00:e:N::/64 for server N, counted from 1. The
// director is .1 and ::1 in each, forwards both families and checks reverse
// paths strictly; everybody else's default route is the director. Addresses
// work as soon as New returns: duplicate address detection is off.
//
// Namespaces are named (/run/netns), so `ip netns exec NAME` works on them. The
// names hold the owner's process id, and New removes those of dead owners, so
// a killed test leaves nothing behind for long. Everything here needs root.
package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// The virtual addresses that labs and examples use. They are in none of the
// subnets of a lab.
var (
	VIP4 = netip.AddrFrom4([4]byte{198, 18, 255, 10})
	VIP6 = netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0f, 15: 0x10})
)

// The most nodes of a kind: their numbers are one byte of an address, and the
// clients' range is 198.18.0.0/17.
const (
	maxClients = 127
	maxServers = 250
)

// Options say what New builds.
type Options struct {
	// Prefix is the part of the namespaces' names that tells what the lab is
	// for: letters, digits and "-". "lab" if empty.
	Prefix string
	// Clients and Servers count the nodes on either side. AddClient and
	// AddServer add more later.
	Clients, Servers int
	// VIPs are addresses that nodes reach through the director. They need no
	// route of their own, as everybody's default route leads there.
	VIPs []netip.Addr
	// AssignVIPs puts the VIPs on the director's loopback device. Otherwise
	// they are only routed to it, and its stack does not know them.
	AssignVIPs bool
}

// Lab is one network. Its methods may be called from any goroutine.
type Lab struct {
	// Director is the router in the middle.
	Director *Namespace

	name string // what the names of all namespaces start with
	mu   sync.Mutex
	// clients, servers and extra are guarded by mu.
	clients, servers []*Node
	extra            []*Namespace
	cgroups          []*Cgroup // guarded by mu
}

// Node is a client or a server.
type Node struct {
	*Namespace
	// V4 and V6 are the node's addresses, Gateway4 and Gateway6 the director's
	// on the same link, or those of the router that stands between.
	V4, V6, Gateway4, Gateway6 netip.Addr
	// Device is the name of the director's device towards the node; the node's
	// own is always "eth0".
	Device string
}

// Addr returns the node's IPv6 address, or its IPv4 address.
func (n *Node) Addr(ipv6 bool) netip.Addr {
	if ipv6 {
		return n.V6
	}
	return n.V4
}

// New builds a lab. Namespaces that a killed owner left are removed first. The
// caller calls Close when done, also at the end of a failing test.
func New(opts Options) (*Lab, error) {
	if opts.Prefix == "" {
		opts.Prefix = "lab"
	}
	if !prefixPattern.MatchString(opts.Prefix) {
		return nil, fmt.Errorf("netlab: prefix %q: write letters, digits and \"-\"", opts.Prefix)
	}
	if err := RemoveStale(); err != nil {
		return nil, err
	}
	lab, err := newDirector(opts.Prefix)
	if err != nil {
		return nil, err
	}
	if err := lab.populate(opts); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return lab, nil
}

func (l *Lab) populate(opts Options) error {
	if err := l.Director.EnableForwarding(); err != nil {
		return err
	}
	for range opts.Clients {
		if _, err := l.AddClient(); err != nil {
			return err
		}
	}
	for range opts.Servers {
		if _, err := l.AddServer(); err != nil {
			return err
		}
	}
	if !opts.AssignVIPs {
		return nil
	}
	for _, vip := range opts.VIPs {
		if err := l.Director.AddAddr("lo", netip.PrefixFrom(vip, vip.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

// Clients returns the clients, in the order of their numbers.
func (l *Lab) Clients() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node(nil), l.clients...)
}

// Servers returns the real servers, in the order of their numbers.
func (l *Lab) Servers() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node(nil), l.servers...)
}

// AddClient adds the next client to the running lab.
func (l *Lab) AddClient() (*Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.clients) + 1
	if n > maxClients {
		return nil, fmt.Errorf("netlab: add client %d: a lab has at most %d", n, maxClients)
	}
	node, err := l.addNode("client", n, netip.AddrFrom4([4]byte{198, 18, byte(n), 0}), 0x0c)
	if err != nil {
		return nil, err
	}
	l.clients = append(l.clients, node)
	return node, nil
}

// AddServer adds the next real server to the running lab.
func (l *Lab) AddServer() (*Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.servers) + 1
	if n > maxServers {
		return nil, fmt.Errorf("netlab: add server %d: a lab has at most %d", n, maxServers)
	}
	node, err := l.addNode("server", n, netip.AddrFrom4([4]byte{198, 19, byte(n), 0}), 0x0e)
	if err != nil {
		return nil, err
	}
	l.servers = append(l.servers, node)
	return node, nil
}

// AddNamespace adds a namespace that is connected to nothing; AddDevice
// connects it. role is part of its name: letters and digits.
func (l *Lab) AddNamespace(role string) (*Namespace, error) {
	if !rolePattern.MatchString(role) {
		return nil, fmt.Errorf("netlab: role %q: write letters and digits", role)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ns, err := newNamespace(l.name + "-" + role)
	if err != nil {
		return nil, err
	}
	l.extra = append(l.extra, ns)
	return ns, nil
}

// Close stops the processes that were started in the lab's namespaces and
// removes the namespaces, and with them their devices. Calling it again does
// nothing. Sockets that are still open keep a namespace alive, without a name,
// until they are closed.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	all := append([]*Namespace(nil), l.extra...)
	for _, node := range append(l.clients, l.servers...) {
		all = append(all, node.Namespace)
	}
	for _, ns := range append(all, l.Director) {
		errs = append(errs, ns.close())
	}
	for _, c := range l.cgroups {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// addNode makes a node's namespace and its link to the director. prefix4 is
// the node's /24; group is the third byte of its IPv6 addresses.
func (l *Lab) addNode(role string, n int, prefix4 netip.Addr, group byte) (*Node, error) {
	ns, err := newNamespace(fmt.Sprintf("%s-%s%d", l.name, role, n))
	if err != nil {
		return nil, err
	}
	host := func(h byte) (netip.Addr, netip.Addr) {
		v4 := prefix4.As4()
		v4[3] = h
		return netip.AddrFrom4(v4), netip.AddrFrom16([16]byte{0: 0xfd, 3: group, 5: byte(n), 15: h})
	}
	node := &Node{Namespace: ns, Device: fmt.Sprintf("%s%d", role, n)}
	node.Gateway4, node.Gateway6 = host(1)
	node.V4, node.V6 = host(2)
	if err := node.link(l.Director, node.Device); err != nil {
		return nil, errors.Join(fmt.Errorf("netlab: connect %s to the director: %w", ns.Name, err), ns.close())
	}
	return node, nil
}

// link makes the veth pair to what the node's routes lead to, whose end is
// device, gives both ends their addresses and the node its default routes.
func (n *Node) link(gateway *Namespace, device string) error {
	if err := AddDevice(gateway, device, n.Namespace, nodeDevice); err != nil {
		return err
	}
	if err := gateway.addAddrs(device, n.Gateway4, n.Gateway6); err != nil {
		return err
	}
	if err := n.addAddrs(nodeDevice, n.V4, n.V6); err != nil {
		return err
	}
	for _, gw := range []netip.Addr{n.Gateway4, n.Gateway6} {
		route := netlink.Route{Gw: gw.AsSlice()}
		if err := n.handle.RouteAdd(&route); err != nil {
			return fmt.Errorf("add default route via %s: %w", gw, err)
		}
	}
	return nil
}

// addAddrs gives a device an address of each family.
func (n *Namespace) addAddrs(device string, v4, v6 netip.Addr) error {
	if err := n.AddAddr(device, netip.PrefixFrom(v4, 24)); err != nil {
		return err
	}
	return n.AddAddr(device, netip.PrefixFrom(v6, 64))
}
