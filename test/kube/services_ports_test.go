// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
)

// portLines are about a Service's ports and protocols.
var portLines = []line{
	{name: "should be updated after adding or deleting ports", run: func(e *e2e) {
		client, p := e.pods()[0], e.pods()[3]
		one, two := servicePort{"one", "TCP", 80, e.port(), 0}, servicePort{"two", "TCP", 81, e.port(), 0}
		e.serve(p, one.target)
		e.serve(p, two.target)
		s := e.serviceAt("ports", "", one)
		update := func(ports ...servicePort) {
			s.ports = ports
			s.apply("").endpoints(s.ready(p)...)
		}
		update(one)
		at := []netip.AddrPort{s.vip(), netip.AddrPortFrom(s.vip().Addr(), 81)}
		e.reachesBy("tcp", client, at[0], p)
		e.refusesBy(networks[:1], client, at[1])
		update(one, two)
		e.reachesBy("tcp", client, at[0], p)
		e.reachesBy("tcp", client, at[1], p)
		update(two)
		e.refusesBy(networks[:1], client, at[0])
		e.reachesBy("tcp", client, at[1], p)
	}},
	{name: "should serve endpoints on same port and different protocols", run: func(e *e2e) {
		client, p := e.pods()[0], e.pods()[3]
		s := e.service("both", "").backends(p)
		e.reaches(client, s.vip(), p)
		all := s.ports
		for i := range networks {
			other := networks[1-i]
			s.ports = all[1-i : 2-i]
			s.apply("").endpoints(s.ready(p)...)
			e.refusesBy(networks[i:i+1], client, s.vip())
			e.reachesBy(other, client, s.vip(), p)
			s.ports = all
			s.apply("").endpoints(s.ready(p)...)
			e.reaches(client, s.vip(), p)
		}
	}},
	{name: "should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer", run: func(e *e2e) {
		s := e.service("both", "type: LoadBalancer").backends(e.pods()[3])
		for _, client := range []*pod{e.pods()[0], e.pods()[4]} {
			e.reaches(client, s.vip(), e.pods()[3])
		}
		at := s.balancer(e.external())
		for _, client := range []*pod{e.pods()[0], e.pods()[4]} {
			e.reaches(client, at, e.pods()[3])
			e.reaches(client, s.vip(), e.pods()[3])
		}
	}},
	// The kernel here need not know SCTP: what pods say and hear are raw packets.
	{name: "should allow creating a basic SCTP service with pod and endpoints", run: func(e *e2e) {
		client, p := e.pods()[0], e.pods()[3]
		target := e.port()
		s := e.serviceAt("sctp", "", servicePort{"sctp", "SCTP", target, target, 0}).backends(p)
		network := map[bool]string{false: "ip4:132", true: "ip6:132"}[e.v6]
		l, err := p.ListenPacket(context.Background(), network, p.addr(e.v6).String())
		e.try(err)
		e.stops = append(e.stops, func() { l.Close() })
		d, err := client.DialWith(context.Background(), &net.Dialer{}, network, s.vip().Addr().String())
		e.try(err)
		e.stops = append(e.stops, func() { d.Close() })
		e.eventually("a packet of SCTP arrives", func() error { return passes(d, l, target) })
	}},
	{name: "should support named targetPorts that resolve to different ports on different endpoints", run: func(e *e2e) {
		s := e.serviceAt("named", "", servicePort{"http", "TCP", 80, e.port(), 0})
		for i, p := range []*pod{e.pods()[1], e.pods()[3], e.pods()[5]} {
			target := e.port()
			e.serve(p, target)
			s.slice(fmt.Sprint(i), slice{ports: []servicePort{{"http", "TCP", 80, target, 0}}, pods: []*pod{p}})
		}
		e.reachesBy("tcp", e.pods()[0], s.vip(), e.pods()[1], e.pods()[3], e.pods()[5])
	}},
}

// passes begins an association of SCTP (RFC 9260 sections 3.1 and 3.3.2) at a port and
// waits for that at the backend.
func passes(from net.Conn, to net.PacketConn, port uint16) error {
	const source = 4096
	sent := make([]byte, 32)
	binary.BigEndian.PutUint16(sent, source)
	binary.BigEndian.PutUint16(sent[2:], port)
	copy(sent[12:], []byte{
		1, 0, 0, 20, // INIT, its flags and length
		0, 0, 0, 1, // tag
		0, 0, 0x80, 0, // window
		0, 1, 0, 1, // streams both ways
		0, 0, 0, 1, // first number
	})
	binary.LittleEndian.PutUint32(sent[8:], crc32.Checksum(sent, crc32.MakeTable(crc32.Castagnoli)))
	if _, err := from.Write(sent); err != nil {
		return err
	}
	if err := to.SetReadDeadline(deadline()); err != nil {
		return err
	}
	got := make([]byte, 64)
	n, peer, err := to.ReadFrom(got)
	if err != nil {
		return err
	}
	if n < 4 || binary.BigEndian.Uint16(got) != source || binary.BigEndian.Uint16(got[2:]) != port {
		return fmt.Errorf("%d bytes from %s are not what was sent", n, peer)
	}
	return nil
}
