// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// cluster is three nodes in one network, on which an outside client is too. The first
// two have pods, at a bridge each.
type cluster struct {
	t       testing.TB
	api     *kubetest.Server
	lab     *netlab.Lab
	options options
	nodes   []*node
	outside *host
}

// options are what clusters differ in.
type options struct {
	sockets   string            // of --socket-lb; "": all
	nodePorts map[string]string // of --nodeport-addresses, by node; "": left out
}

// host is a namespace with an address of each family.
type host struct {
	*netlab.Namespace
	name   string
	v4, v6 netip.Addr
}

func (h *host) addr(v6 bool) netip.Addr {
	if v6 {
		return h.v6
	}
	return h.v4
}

// pod is a pod's namespace.
type pod struct {
	host
	node *node
}

// The networks: of nodes, of pods by node, and those that tests take VIPs from. A
// node's number is the third byte, or the fourth group, of its pods' addresses.
var (
	podNets     = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	vipNets     = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:cb00::/48")}
	serviceNets = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
)

func nodeAddr(n int, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:31::%d", n))
	}
	return netip.MustParseAddr(fmt.Sprintf("172.31.0.%d", n))
}

func podAddr(node, pod int, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", node, pod))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", node, pod))
}

// inNet is an address with the length of its network.
func inNet(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(a, 64)
	}
	return netip.PrefixFrom(a, 24)
}

// Names and places of devices, and how many pods a node has.
const (
	uplink    = "eth0"
	podBridge = "cni0"
	podsEach  = 3
	outsideNo = 200 // the outside client's address among the nodes'
)

// newCluster makes a cluster whose nodes each run a daemon, until the test ends. Each has
// a control group of its own, of which its daemon leads sockets.
func newCluster(t testing.TB, o options) *cluster {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "kube"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t: t, api: shared.Start(t), lab: lab, options: o}
	c.must(addBridge(lab.Director, "sw0"))
	c.outside = c.connect("outside", outsideNo)
	for n := 1; n <= 3; n++ {
		c.addNode(n)
	}
	c.route()
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

// sockets is the word of --socket-lb, or what IPVS does.
func (c *cluster) sockets() string {
	if *dataplaneWord == byIPVS {
		return "off"
	}
	return cmp.Or(c.options.sockets, "all")
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func addBridge(n *netlab.Namespace, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := n.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge %s in %s: %w", name, n.Name, err)
	}
	link, err := n.Netlink().LinkByName(name)
	if err != nil {
		return err
	}
	return n.Netlink().LinkSetUp(link)
}

// plug makes a device of a bridge's namespace one of its ports. Frames may leave by
// the port that they came by: a pod may be its own backend.
func plug(n *netlab.Namespace, device, bridge string) error {
	port, err := n.Netlink().LinkByName(device)
	if err != nil {
		return err
	}
	master, err := n.Netlink().LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := n.Netlink().LinkSetMaster(port, master); err != nil {
		return err
	}
	return n.Netlink().LinkSetHairpin(port, true)
}

// connect makes a namespace in the network of the nodes.
func (c *cluster) connect(name string, number int) *host {
	c.t.Helper()
	ns, err := c.lab.AddNamespace(name)
	c.must(err)
	c.must(netlab.AddDevice(c.lab.Director, name, ns, uplink))
	c.must(plug(c.lab.Director, name, "sw0"))
	h := &host{ns, name, nodeAddr(number, false), nodeAddr(number, true)}
	for _, v6 := range []bool{false, true} {
		c.must(ns.AddAddr(uplink, inNet(h.addr(v6))))
	}
	return h
}

// addNode makes a node, tells the API server, and gives it pods, the third one none.
func (c *cluster) addNode(number int) {
	c.t.Helper()
	n := &node{host: c.connect(fmt.Sprintf("node%d", number), number), c: c, number: number}
	c.nodes = append(c.nodes, n)
	var err error
	n.group, err = c.lab.AddCgroup()
	c.must(err)
	n.SetCgroup(n.group)
	c.must(n.EnableForwarding())
	c.must(addBridge(n.Namespace, podBridge))
	for _, v6 := range []bool{false, true} {
		c.must(n.AddAddr(podBridge, inNet(podAddr(number, 1, v6))))
	}
	c.api.SetNode(c.t, n.object())
	if number == 3 {
		return
	}
	for i := range podsEach {
		c.addPod(n, i+2)
	}
}

func (c *cluster) addPod(n *node, number int) {
	c.t.Helper()
	name := fmt.Sprintf("pod%d%d", n.number, number-1)
	ns, err := c.lab.AddNamespace(name)
	c.must(err)
	ns.SetCgroup(n.group)
	device := fmt.Sprintf("veth%d", number-1)
	c.must(netlab.AddDevice(n.Namespace, device, ns, uplink))
	c.must(plug(n.Namespace, device, podBridge))
	p := &pod{host{ns, name, podAddr(n.number, number, false), podAddr(n.number, number, true)}, n}
	for _, v6 := range []bool{false, true} {
		c.must(ns.AddAddr(uplink, inNet(p.addr(v6))))
		c.must(ns.AddRoute(everywhere(v6), podAddr(n.number, 1, v6)))
	}
	n.pods = append(n.pods, p)
}

func everywhere(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// route leads nodes to each other's pods, the outside client to VIPs by the first
// node, and all to nowhere else.
func (c *cluster) route() {
	c.t.Helper()
	for _, v6 := range []bool{false, true} {
		for _, n := range c.nodes {
			for _, other := range c.nodes {
				if other != n {
					c.must(n.AddRoute(inNet(podAddr(other.number, 0, v6)).Masked(), other.addr(v6)))
				}
			}
			c.must(n.AddRoute(everywhere(v6), c.outside.addr(v6)))
		}
		i := 0
		if v6 {
			i = 1
		}
		for _, net := range []netip.Prefix{podNets[i], vipNets[i], serviceNets[i]} {
			c.must(c.outside.AddRoute(net, c.nodes[0].addr(v6)))
		}
	}
}

// pods are all, those of the first node first.
func (c *cluster) pods() (out []*pod) {
	for _, n := range c.nodes {
		out = append(out, n.pods...)
	}
	return out
}

// join writes networks as a flag takes them.
func join(networks []netip.Prefix) string {
	var out []string
	for _, n := range networks {
		out = append(out, n.String())
	}
	return strings.Join(out, ",")
}
