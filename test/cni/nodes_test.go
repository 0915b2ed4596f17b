// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// cluster is two nodes with a network between them, each with a bridge of
// pods: two on the first, one on the second.
type cluster struct {
	*scene
	other      *node
	client     *host
	a, b, away *host
}

func (s *scene) cluster() *cluster {
	s.Helper()
	c := &cluster{scene: s, client: s.uplink(), other: s.addNode("other")}
	s.ip(s.node.Namespace, `
		link add eth1 type veth peer name eth1 netns {other}
		addr add 192.0.2.1/24 dev eth1
		link set eth1 up
	`)
	s.ip(c.other.Namespace, `
		addr add 192.0.2.2/24 dev eth1
		link set eth1 up
		route add default via 192.0.2.1
	`)
	s.bridgeOf(s.node, "10.244.1", "fd00:244:1")
	s.bridgeOf(c.other, "10.244.2", "fd00:244:2")
	c.a = s.bridgedPod(s.node, "pod1", "10.244.1", "fd00:244:1", "2")
	c.b = s.bridgedPod(s.node, "pod2", "10.244.1", "fd00:244:1", "3")
	c.away = s.bridgedPod(c.other, "pod3", "10.244.2", "fd00:244:2", "2")
	return c
}

// overlay gives a device that each node has to the other's pods.
func (c *cluster) overlay(device string) {
	c.Helper()
	for _, side := range []struct {
		n            *node
		own, peer    string
		pods4, pods6 string
	}{
		{c.node, "1", "2", "10.244.2.0/24", "fd00:244:2::/64"},
		{c.other, "2", "1", "10.244.1.0/24", "fd00:244:1::/64"},
	} {
		c.ip(side.n.Namespace, strings.NewReplacer("DEV", device, "OWN", side.own, "PEER", side.peer, "PODS4", side.pods4, "PODS6", side.pods6).Replace(`
			addr add 10.245.0.OWN/24 dev DEV
			addr add fd00:245::OWN/64 dev DEV nodad
			link set DEV up
			route add PODS4 via 10.245.0.PEER dev DEV
			route add PODS6 via fd00:245::PEER dev DEV
		`))
	}
	// the second node has no other way out
	c.ip(c.other.Namespace, "route add default via fd00:245::1 dev "+device)
}

// everyWayBetween goes all ways that lead from one node to the other, with a
// daemon on both. What comes from outside is masqueraded to the other node:
// its answers would take another way.
func (c *cluster) everyWayBetween() {
	c.Helper()
	c.settle([]*host{c.a, c.away}, c.a, c.b, c.away)
	c.settle([]*host{c.client}, c.a, c.b)
	here, there := service{80, []*host{c.a}, false}, service{81, []*host{c.away}, false}
	both, masked := service{82, []*host{c.a, c.away}, false}, service{83, []*host{c.a, c.away}, true}
	for _, n := range c.nodes {
		c.policy(n, c.a, c.b, c.away)
		n.start(rules(here, there, both, masked))
	}
	c.reaches(c.a, there, false)
	c.reaches(c.b, both, false)
	c.reaches(c.away, here, false)
	c.reaches(c.away, there, true) // itself
	c.reaches(c.client, here, false)
	c.reaches(c.client, masked, true)
	c.direct(c.a, c.away)
	c.direct(c.away, c.b)
	for _, n := range c.nodes {
		c.policyHeld(n)
	}
	c.droppedOnly("redirect")
}

// Both nodes are in one network, each has a route to the other's pods.
func hostGateway(s *scene) {
	c := s.cluster()
	c.ip(c.node.Namespace, `
		addr add fd00:192::1/64 dev eth1 nodad
		route add 10.244.2.0/24 via 192.0.2.2
		route add fd00:244:2::/64 via fd00:192::2
	`)
	c.ip(c.other.Namespace, `
		addr add fd00:192::2/64 dev eth1 nodad
		route add 10.244.1.0/24 via 192.0.2.1
		route add default via fd00:192::1
	`)
	c.everyWayBetween()
}

// Pods' devices have a larger MTU than the tunnel: senders learn of it by
// errors about packets that waggle has translated.
func vxlan(s *scene) {
	c := s.cluster()
	c.ip(c.node.Namespace, "link add flannel.1 type vxlan id 1 local 192.0.2.1 remote 192.0.2.2 dev eth1 dstport 8472")
	c.ip(c.other.Namespace, "link add flannel.1 type vxlan id 1 local 192.0.2.2 remote 192.0.2.1 dev eth1 dstport 8472")
	c.overlay("flannel.1")
	c.everyWayBetween()
}

// Devices without an Ethernet header.
func ipip(s *scene) {
	c := s.cluster()
	c.ip(c.node.Namespace, "link add tunl1 type sit mode any local 192.0.2.1 remote 192.0.2.2")
	c.ip(c.other.Namespace, "link add tunl1 type sit mode any local 192.0.2.2 remote 192.0.2.1")
	c.overlay("tunl1")
	c.everyWayBetween()
}

func gre(s *scene) {
	c := s.cluster()
	c.ip(c.node.Namespace, "link add gre1 type gre local 192.0.2.1 remote 192.0.2.2")
	c.ip(c.other.Namespace, "link add gre1 type gre local 192.0.2.2 remote 192.0.2.1")
	c.overlay("gre1")
	c.everyWayBetween()
}

func wireguard(s *scene) {
	c := s.cluster()
	var keys []*ecdh.PrivateKey
	for range c.nodes {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			s.Fatal(err)
		}
		keys = append(keys, k)
	}
	text := base64.StdEncoding.EncodeToString
	for i, n := range c.nodes {
		c.ip(n.Namespace, "link add wg0 type wireguard")
		c.output(n.Namespace, text(keys[i].Bytes()), "wg", "set", "wg0", "private-key", "/proc/self/fd/0", "listen-port", "51820",
			"peer", text(keys[1-i].PublicKey().Bytes()), "allowed-ips", "0.0.0.0/0,::/0", "endpoint", []string{"192.0.2.2", "192.0.2.1"}[i]+":51820")
	}
	c.overlay("wg0")
	c.everyWayBetween()
}

// A process carries packets from one node's tun device to the other's.
func tun(s *scene) {
	c := s.cluster()
	a, b := c.tun(c.node, "tun0"), c.tun(c.other, "tun0")
	go carry(a, b)
	go carry(b, a)
	c.overlay("tun0")
	c.everyWayBetween()
}

func (s *scene) tun(n *node, name string) *os.File {
	s.Helper()
	var f *os.File
	err := n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		s.Fatalf("make device %s: %v", name, err)
	}
	s.Cleanup(func() { f.Close() })
	return f
}

// carry ends when a device is closed. What a device that is not up refuses is
// lost, as on any wire.
func carry(from, to *os.File) {
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(b[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}
