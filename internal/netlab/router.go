// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// A router's devices.
const (
	// RouterUp leads to the director, RouterDown to the node.
	RouterUp   = "up"
	RouterDown = "down"
)

// Transit networks: 198.18.128+N.0/24 of client N, 198.18.192+N.0/24 of
// server N. They end before the VIPs' 198.18.255.0/24.
const (
	transitClients = 128
	transitServers = 192
	maxRouters     = 62
)

// Router stands between a node and the director and forwards both families.
// On the node's link it has the node's gateway addresses.
type Router struct {
	*Namespace
	// V4 and V6 are its addresses on the director's link, Director4 and
	// Director6 the director's.
	V4, V6, Director4, Director6 netip.Addr
}

// AddRouter puts a router between a node and the director: the director's
// device keeps its name, the node its addresses. Connections of the node end,
// as its device is made anew. Nodes 1 to 62 of a kind can have one.
func (l *Lab) AddRouter(node *Node) (*Router, error) {
	b := node.V4.As4()
	number, transit, group := b[2], byte(transitClients), byte(0x0c)
	if b[1] == 19 {
		transit, group = transitServers, 0x0e
	}
	if number > maxRouters {
		return nil, fmt.Errorf("netlab: add router to %s: only nodes 1 to %d can have one", node.Name, maxRouters)
	}
	ns, err := l.AddNamespace("router" + node.Device)
	if err != nil {
		return nil, err
	}
	r := &Router{Namespace: ns}
	host := func(h byte) (netip.Addr, netip.Addr) {
		return netip.AddrFrom4([4]byte{198, 18, transit + number, h}),
			netip.AddrFrom16([16]byte{0: 0xfd, 3: group, 5: number, 7: 1, 15: h})
	}
	r.Director4, r.Director6 = host(1)
	r.V4, r.V6 = host(2)
	if err := r.insert(l.Director, node); err != nil {
		return nil, fmt.Errorf("netlab: put a router before %s: %w", node.Name, err)
	}
	return r, nil
}

func (r *Router) insert(director *Namespace, node *Node) error {
	if err := r.EnableForwarding(); err != nil {
		return err
	}
	if err := director.DelDevice(node.Device); err != nil {
		return err
	}
	if err := AddDevice(director, node.Device, r.Namespace, RouterUp); err != nil {
		return err
	}
	for _, end := range []struct {
		ns     *Namespace
		v4, v6 netip.Addr
		device string
	}{{director, r.Director4, r.Director6, node.Device}, {r.Namespace, r.V4, r.V6, RouterUp}} {
		if err := end.ns.addAddrs(end.device, end.v4, end.v6); err != nil {
			return err
		}
	}
	if err := node.link(r.Namespace, RouterDown); err != nil {
		return err
	}
	for node, via := range map[netip.Addr]netip.Addr{node.V4: r.V4, node.V6: r.V6} {
		if err := director.AddRoute(subnet(node), via); err != nil {
			return err
		}
	}
	for _, via := range []netip.Addr{r.Director4, r.Director6} {
		if err := r.AddRoute(netip.PrefixFrom(unspecified(via), 0), via); err != nil {
			return err
		}
	}
	return nil
}

// AddRoute adds a route by a gateway.
func (n *Namespace) AddRoute(to netip.Prefix, via netip.Addr) error {
	dst, err := netlink.ParseIPNet(to.String())
	if err != nil {
		return err
	}
	if err := n.handle.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route to %s via %s in namespace %s: %w", to, via, n.Name, err)
	}
	return nil
}

// subnet is the network of an address of a lab: /24 or /64.
func subnet(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
