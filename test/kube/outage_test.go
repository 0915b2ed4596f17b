// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// TestOutages is about what becomes of traffic, and of changes, when a daemon and its
// API server lose each other, and when a node's addresses change; and about what daemons
// say of themselves.
func TestOutages(t *testing.T) { runLines(t, outageLines()) }

func outageLines() []line {
	return append([]line{
		{name: "should work after restarting apiserver", alone: true, run: func(e *e2e) {
			e.serverOutage(func() { e.api.Stop(e.t) })
		}},
		{name: "traffic goes on when the API server crashes", alone: true, run: func(e *e2e) {
			e.serverOutage(func() { e.api.Kill(e.t) })
		}},
		{name: "what changes while a node does not hear is taken up", alone: true, run: (*e2e).lostWatch},
		{name: "a daemon that starts while the API server is away deletes nothing", alone: true, run: (*e2e).startAlone},
		{name: "a daemon that knows but a part deletes nothing", alone: true, run: (*e2e).startBlind},
		{name: "node ports follow the addresses of the Node", alone: true, run: (*e2e).nodeAddresses},
		{name: "node ports are served at an address only while the machine has it", alone: true, run: (*e2e).machineAddresses},
	}, healthLines...)
}

// retries is how long a daemon may wait before it asks an API server again that did not
// answer: client-go doubles the time up to this.
const retries = time.Minute

// fromEverywhere waits until a client on each node with pods, and one outside by the third
// node, reach these pods and no others.
func (e *e2e) fromEverywhere(s *service, pods ...*pod) {
	for _, network := range networks {
		e.only(network, e.pods()[2], s.vip(), pods...)
		e.only(network, e.pods()[5], s.vip(), pods...)
		e.only(network, e.outside, s.nodePortBy(network, e.nodes[2]), pods...)
	}
}

// serverOutage takes the API server away and brings it back while clients connect.
func (e *e2e) serverOutage(down func()) {
	e.patience = max(e.patience, retries)
	s := e.service("before", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	e.fromEverywhere(s, e.pods()[0], e.pods()[3])
	f := e.traffic(s.vip(), e.pods()[2], e.pods()[5])
	conn, _, err := dial(e.pods()[2], "tcp", s.vip(), 0)
	e.try(err)
	defer conn.Close()

	down()
	f.turn()
	e.echo(conn)
	e.api.Restart(e.t)
	f.turn()

	s.serve(e.pods()[4])
	s.endpoints(append(s.ready(e.pods()[4]), e.endpoint(e.pods()[0], kubetest.Draining), e.endpoint(e.pods()[3], kubetest.Draining))...)
	e.fromEverywhere(s, e.pods()[4])
	f.turn() // those who had found the old ones are done
	s.endpoints(s.ready(e.pods()[4])...)
	f.turn()
	after := e.service("after", "type: NodePort").backends(e.pods()[1])
	e.fromEverywhere(after, e.pods()[1])
	e.api.Delete(e.t, "Service", e.ns, after.name)
	e.allGone([]netip.AddrPort{after.vip()}, e.pods()[2], e.pods()[5])
	e.allDead(after.nodePorts(e.nodes[2]), e.outside)
	f.turn()
	e.echo(conn)
	f.succeeded()
}

// lostWatch parts the first node from the API server, and changes things.
func (e *e2e) lostWatch() {
	e.patience = max(e.patience, retries)
	stays := e.service("stays", "type: NodePort").backends(e.pods()[0])
	goes := e.service("goes", "type: NodePort").backends(e.pods()[1])
	moves := e.service("moves", "type: NodePort").backends(e.pods()[0])
	here, there := e.pods()[2], e.pods()[5]
	for _, s := range []*service{stays, goes, moves} {
		for _, c := range []client{here, there} {
			e.reaches(c, s.vip())
		}
	}
	f := e.traffic(stays.vip(), here, there)
	n := e.nodes[0]
	seen := len(n.logged())
	n.cut()
	n.says("the API server fails", seen)

	e.api.Delete(e.t, "Service", e.ns, goes.name)
	moves.backends(e.pods()[4])
	comes := e.service("comes", "type: NodePort").backends(e.pods()[1])
	e.reaches(there, comes.vip(), e.pods()[1]) // the other nodes hear
	e.leads(moves, there, e.pods()[4])
	e.reaches(here, goes.vip(), e.pods()[1]) // this one does what it knows
	e.reaches(here, moves.vip(), e.pods()[0])
	f.turn()

	n.reconnect()
	e.leads(moves, here, e.pods()[4])
	e.leads(comes, here, e.pods()[1])
	e.allGone([]netip.AddrPort{goes.vip()}, here, there)
	e.allDead(goes.nodePorts(n), e.outside)
	for _, network := range networks {
		e.only(network, e.outside, comes.nodePortBy(network, n), e.pods()[1])
	}
	f.succeeded()
}

// nodePorts are where a node serves it, by TCP and by UDP.
func (s *service) nodePorts(n *node) []netip.AddrPort {
	return []netip.AddrPort{s.nodePort(n, 0), s.nodePort(n, 1)}
}

// startAlone kills the first node's daemon and starts it while the API server is away.
func (e *e2e) startAlone() {
	e.patience = max(e.patience, retries)
	s := e.service("alone", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	changed := e.service("changed", "").backends(e.pods()[0])
	here := e.pods()[2]
	e.fromEverywhere(s, e.pods()[0], e.pods()[3])
	e.leads(changed, here, e.pods()[0])
	f := e.traffic(s.vip(), here, e.pods()[5])
	conn, _, err := dial(here, "tcp", s.vip(), 0)
	e.try(err)
	defer conn.Close()

	n := e.nodes[0]
	n.cut()
	n.kill()
	f.turn()
	changed.backends(e.pods()[4])
	seen := len(n.logged())
	n.spawn(e.api.Kubeconfig(e.t))
	n.says("the API server fails", seen)
	e.says(e.outside, netip.AddrPortFrom(n.addr(e.v6), 10256), "/livez", http.StatusOK) // nobody is to restart it
	f.turn()
	e.echo(conn)
	e.leads(changed, here, e.pods()[0])
	for _, network := range networks {
		e.only(network, e.outside, s.nodePortBy(network, n), e.pods()[0], e.pods()[3])
	}

	n.reconnect()
	n.says("ready", seen)
	e.leads(changed, here, e.pods()[4])
	f.turn()
	e.echo(conn)
	f.succeeded()
}

// rights lets the line's account read some resources, of any group, and no others.
func (e *e2e) rights(resources string) {
	e.api.Apply(e.t, "", fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %[1]s}
rules: [{apiGroups: ["*"], resources: [%[2]s], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s}
subjects: [{kind: ServiceAccount, namespace: %[1]s, name: waggle}]`, e.ns, resources))
}

// startBlind starts the first node's daemon where it may read Services, and not yet
// their endpoints.
func (e *e2e) startBlind() {
	e.patience = max(e.patience, retries)
	s := e.service("blind", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	goes := e.service("goes", "").backends(e.pods()[1])
	here, n := e.pods()[2], e.nodes[0]
	e.fromEverywhere(s, e.pods()[0], e.pods()[3])
	e.leads(goes, here, e.pods()[1])
	f := e.traffic(s.vip(), here, e.pods()[5])

	e.object("{apiVersion: v1, kind: ServiceAccount, metadata: {name: waggle}}")
	e.rights("services, nodes, servicecidrs")
	n.kill()
	e.api.Delete(e.t, "Service", e.ns, goes.name)
	seen := len(n.logged())
	n.spawn(e.api.AccountKubeconfig(e.t, e.ns, "waggle"))
	n.says("the API server fails", seen)
	f.turn()
	e.leads(goes, here, e.pods()[1])
	e.fromEverywhere(s, e.pods()[0], e.pods()[3])

	e.rights("services, nodes, servicecidrs, endpointslices")
	e.allGone([]netip.AddrPort{goes.vip()}, here)
	n.says("ready", seen)
	f.turn()
	n.kill() // its account goes with the line
	n.launch()
	f.turn()
	f.succeeded()
}

// another is a second address of a node, in the network of nodes.
func (n *node) another(v6 bool) netip.Addr { return nodeAddr(100+n.number, v6) }

// announce makes the Node say that this is its address of the line's family.
func (e *e2e) announce(n *node, a netip.Addr) {
	o := n.object()
	for i := range o.Addrs {
		if o.Addrs[i].Is6() == e.v6 {
			o.Addrs[i] = a
		}
	}
	e.api.SetNode(e.t, o)
}

// served waits until a node's ports of a Service are served at an address, or are not.
func (e *e2e) served(s *service, n *node, a netip.Addr, is bool) {
	var at []netip.AddrPort
	for _, port := range s.nodePorts(n) {
		at = append(at, netip.AddrPortFrom(a, port.Port()))
	}
	if !is {
		e.allDead(at, e.outside)
		return
	}
	for i, network := range networks {
		e.only(network, e.outside, at[i], e.pods()[0], e.pods()[3])
	}
}

// nodeAddresses changes the address of a Node whose machine has both.
func (e *e2e) nodeAddresses() {
	n := e.nodes[1]
	s := e.service("addresses", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	own, other := n.addr(e.v6), n.another(e.v6)
	e.served(s, n, own, true)
	seen := len(n.logged())
	e.try(n.AddAddr(uplink, inNet(other)))
	defer func() { e.try(n.delAddr(other)) }()
	if *dataplaneWord != byIPVS { // which does not ask for the machine's addresses
		n.says("address="+other.String(), seen)
	}
	e.served(s, n, other, false)
	defer e.announce(n, own)
	e.announce(n, other)
	e.served(s, n, other, true)
	e.served(s, n, own, false)
	e.announce(n, own)
	e.served(s, n, own, true)
	e.served(s, n, other, false)
}

// machineAddresses adds the address that a Node has to its machine, and removes it.
func (e *e2e) machineAddresses() {
	n := e.nodes[1]
	s := e.service("addresses", "type: NodePort").backends(e.pods()[0], e.pods()[3])
	own, other := n.addr(e.v6), n.another(e.v6)
	e.served(s, n, own, true)
	defer e.announce(n, own)
	e.announce(n, other)
	e.via(n, other) // packets to it come here, whosever it is
	e.served(s, n, own, false)
	for range 2 {
		e.served(s, n, other, false)
		e.try(n.AddAddr(uplink, inNet(other)))
		e.served(s, n, other, true)
		e.try(n.delAddr(other))
	}
	e.served(s, n, other, false)
	e.announce(n, own)
	e.served(s, n, own, true)
}

// delAddr undoes AddAddr of the uplink.
func (n *node) delAddr(a netip.Addr) error {
	link, err := n.Netlink().LinkByName(uplink)
	if err != nil {
		return err
	}
	p := inNet(a)
	return n.Netlink().AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(p.Bits(), a.BitLen())}})
}
