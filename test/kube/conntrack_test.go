// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
)

// TestConntrack has the lines of "Conntrack": clients keep a socket, and so their
// port, while what it leads to changes. The last lines are not the suite's.
func TestConntrack(t *testing.T) { runLines(t, conntrackLines()) }

func conntrackLines() []line {
	const cycles = "should be able to preserve UDP traffic when server pod cycles for a "
	return []line{
		{name: cycles + "NodePort service", run: func(e *e2e) {
			s := e.service("cycle", "type: NodePort")
			e.cycle(s, e.udpSocket(e.pods()[0], s.nodePortBy("udp", e.nodes[1])), e.pods()[3], e.pods()[4])
		}},
		{name: cycles + "ClusterIP service", run: func(e *e2e) {
			s := e.service("cycle", "")
			e.cycle(s, e.udpSocket(e.pods()[0], s.vip()), e.pods()[3], e.pods()[4])
		}},
		{name: cycles + "ClusterIP service with InternalTrafficPolicy set to Local", run: func(e *e2e) {
			s := e.service("cycle", "internalTrafficPolicy: Local")
			e.cycle(s, e.udpSocket(e.pods()[0], s.vip()), e.pods()[1], e.pods()[2])
		}},
		{name: cycles + "ClusterIP service and client is hostNetwork (from the node)", run: func(e *e2e) {
			s := e.service("cycle", "")
			e.cycle(s, e.reopened(e.nodes[0], s.vip()), e.pods()[3], e.pods()[4])
		}},
		{name: "an unconnected socket of the node goes on when server pod cycles", run: func(e *e2e) {
			s := e.service("cycle", "type: NodePort")
			e.cycle(s, e.unconnected(e.nodes[0].host, s.vip()), e.pods()[3], e.pods()[4])
			e.cycle(s, e.unconnected(e.nodes[0].host, s.nodePortBy("udp", e.nodes[0])), e.pods()[3], e.pods()[0])
		}},
		{name: "should be able to preserve UDP traffic when initial unready endpoints get ready", run: (*e2e).unreadyGetReady},
		{name: "proxy implementation should not be vulnerable to the invalid conntrack state bug [Privileged]", run: (*e2e).outOfWindow},
		{name: "should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service", run: func(e *e2e) {
			s := e.service("retarget", "type: NodePort")
			e.retarget(s, s.nodePortBy("udp", e.nodes[1]))
		}},
		{name: "UDP traffic follows the target port of a ClusterIP service", run: func(e *e2e) {
			s := e.service("retarget", "")
			e.retarget(s, s.vip())
		}},
		{name: "UDP traffic without answers moves when server pod cycles", run: (*e2e).oneWay},
		{name: "UDP traffic stays with an endpoint that drains, and moves when it ends", run: (*e2e).drains},
		{name: "a TCP connection stays when its endpoint goes", run: (*e2e).keeps},
	}
}

// cycle replaces the pod behind a socket in all ways that a pod may be replaced: at
// once, with nobody there for a while, and with both there for a while.
func (e *e2e) cycle(s *service, socket *socket, first, second *pod) {
	stop := e.serve(first, s.target)
	s.endpoints(s.ready(first)...)
	socket.reaches(first)

	stop()
	stop = e.serve(second, s.target)
	s.endpoints(s.ready(second)...)
	socket.reaches(second)

	stop()
	s.endpoints()
	e.eventually("the socket hears that nobody is there", func() error {
		if pod, err := socket.ask(); !refused(err) {
			return fmt.Errorf("%s answers: %w", pod, err)
		}
		return nil
	})
	stop = e.serve(first, s.target)
	s.endpoints(s.ready(first)...)
	socket.reaches(first)

	e.serve(second, s.target)
	s.endpoints(s.ready(first, second)...)
	e.only("udp", socket.client, socket.to, first, second)
	stop()
	s.endpoints(s.ready(second)...)
	socket.reaches(second)
}

func (e *e2e) unreadyGetReady() {
	s := e.service("unready", "")
	s.serve(e.pods()[3])
	unready := e.endpoint(e.pods()[3], kubetest.NotReady)
	s.endpoints(unready)
	socket := e.udpSocket(e.pods()[0], s.vip())
	e.eventually("an unready endpoint is not used", func() error {
		if pod, err := socket.ask(); !refused(err) {
			return fmt.Errorf("%s answers: %w", pod, err)
		}
		return nil
	})
	s.endpoints(s.ready(e.pods()[3])...)
	socket.reaches(e.pods()[3])
}

// retarget moves the only pod's server to another port.
func (e *e2e) retarget(s *service, at netip.AddrPort) {
	pod := e.pods()[3]
	stop := e.serve(pod, s.target)
	s.endpoints(s.ready(pod)...)
	socket := e.udpSocket(e.pods()[0], at)
	socket.reaches(pod)
	stop()
	before := s.target
	s.retargetTo(e.port(), pod)
	socket.reaches(pod)

	// back to the port before, where another answers, while this one still does
	other := *pod
	other.name = "other"
	s.retargetTo(before, &other)
	socket.reaches(&other)
}

// retargetTo changes the target port, where p serves.
func (s *service) retargetTo(port uint16, p *pod) {
	s.serveAt(port)
	spec := ""
	if s.object.Text("spec", "type") == "NodePort" {
		spec = "type: NodePort"
	}
	s.apply(spec)
	s.backends(p)
}

// listener counts the datagrams that come to a pod, and answers none.
type listener struct {
	net.PacketConn
	mu sync.Mutex
	n  int // guarded by mu
}

func (e *e2e) listen(p *pod, port uint16) *listener {
	conn, err := p.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(p.addr(e.v6), port).String())
	e.try(err)
	e.stops = append(e.stops, func() { conn.Close() })
	l := &listener{PacketConn: conn}
	go func() {
		for buf := make([]byte, 64); ; {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				return
			}
			l.mu.Lock()
			l.n++
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *listener) heard() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// oneWay is syslog's kind of traffic.
func (e *e2e) oneWay() {
	s := e.service("one-way", "")
	first, second := e.listen(e.pods()[3], s.target), e.listen(e.pods()[1], s.target)
	s.endpoints(s.ready(e.pods()[3])...)
	socket := e.udpSocket(e.pods()[0], s.vip())
	arrive := func(l *listener, what string) {
		before := l.heard()
		e.eventually("datagrams come to "+what, func() error {
			if _, err := socket.conn.Write([]byte("!")); err != nil {
				return err
			}
			if n := l.heard() - before; n < 5 {
				return fmt.Errorf("%d came", n)
			}
			return nil
		})
	}
	arrive(first, "the first pod")
	e.try(first.Close())
	s.endpoints(s.ready(e.pods()[1])...)
	arrive(second, "the second pod")
}

func (e *e2e) drains() {
	s := e.service("drains", "")
	stop := e.serve(e.pods()[3], s.target)
	s.serve(e.pods()[4])
	s.endpoints(s.ready(e.pods()[3])...)
	socket := e.udpSocket(e.pods()[0], s.vip())
	socket.reaches(e.pods()[3])
	s.endpoints(e.endpoint(e.pods()[3], kubetest.Draining), e.endpoint(e.pods()[4], kubetest.Ready))
	e.only("udp", e.pods()[0], s.vip(), e.pods()[4])
	for range often {
		if pod, err := socket.ask(); err != nil || pod != e.pods()[3].name {
			e.fail("the socket is answered by %q: %v", pod, err)
		}
	}
	stop()
	s.endpoints(s.ready(e.pods()[4])...)
	socket.reaches(e.pods()[4])
}

func (e *e2e) keeps() {
	s := e.service("keeps", "").backends(e.pods()[3])
	e.reaches(e.pods()[0], s.vip(), e.pods()[3])
	conn, _, err := dial(e.pods()[0], "tcp", s.vip(), 0)
	e.try(err)
	defer conn.Close()
	s.backends(e.pods()[4])
	e.only("tcp", e.pods()[0], s.vip(), e.pods()[4])
	e.echo(conn)
	s.endpoints()
	e.refuses(e.pods()[0], s.vip())
	e.echo(conn)
	e.api.Delete(e.t, "Service", e.ns, s.name)
	e.fails(e.pods()[0], s.vip())
	e.echo(conn)
}

// echo sends something on a connection and gets it back.
func (e *e2e) echo(conn net.Conn) {
	e.try(conn.SetDeadline(time.Now().Add(e.patience)))
	e.try(netlab.Echo(conn, bufio.NewReader(conn), []byte("still there?")))
}

// outOfWindow sends segments that fit in no window, in both directions of a
// connection. Whoever does not translate them shows the client a peer that it does not
// know, and its reset ends the connection.
func (e *e2e) outOfWindow() {
	client, server := e.pods()[0], e.pods()[3]
	s := e.newService("boom", e.family(), e.port())
	s.annotations = hostSockets // its packets are translated
	s.apply("").backends(server)
	e.reaches(client, s.vip(), server)
	atClient, atServer := e.sniff(client), e.sniff(server)
	conn, _, err := dial(client, "tcp", s.vip(), 0)
	e.try(err)
	defer conn.Close()

	target := netip.AddrPortFrom(server.addr(e.v6), s.target)
	own := netip.MustParseAddrPort(conn.LocalAddr().String())
	for _, way := range []struct {
		name     string
		from, to *netlab.Raw
		src, dst netip.AddrPort // as sent
		seen     netip.AddrPort // the end that is translated, as received
	}{
		{"to the client", atServer, atClient, target, own, s.vip()},
		{"to the server", atClient, atServer, own, s.vip(), target},
	} {
		e.echo(conn)
		segment := e.await(way.from, way.name+": a segment to imitate", func(p packet.Packet) bool {
			return p.Src == way.src && p.Dst == way.dst && len(p.Payload) > 0
		})
		for _, off := range []uint32{1 << 30, ^uint32(100000)} {
			bad := segment
			bad.Seq, bad.Payload = segment.Seq+off, fmt.Appendf(nil, "boom %d at %d", off, s.target)
			frame, err := bad.Bytes()
			e.try(err)
			e.try(way.from.Send(frame))
			got := e.await(way.to, way.name+": the segment out of the window", func(p packet.Packet) bool { return bytes.Equal(p.Payload, bad.Payload) })
			if got.Src != way.seen && got.Dst != way.seen {
				e.fail("%s: the segment is %s -> %s, want %s translated", way.name, got.Src, got.Dst, way.seen)
			}
		}
	}
	e.echo(conn)
}

// sniff opens a packet socket at a pod's device, which from now on sends segments with
// their checksums.
func (e *e2e) sniff(p *pod) *netlab.Raw {
	e.try(p.SetOffload(uplink, netlab.TxChecksum, false))
	raw, err := p.Raw(uplink)
	e.try(err)
	e.stops = append(e.stops, func() { raw.Close() })
	return raw
}

// await returns the next frame like this.
func (e *e2e) await(raw *netlab.Raw, what string, ok func(packet.Packet) bool) packet.Packet {
	deadline := time.Now().Add(e.patience)
	for {
		frame, err := raw.Receive(deadline)
		e.try(err)
		if frame == nil {
			e.fail("%s: it does not come", what)
		}
		if p, err := packet.Parse(frame); err == nil && ok(p) {
			return p
		}
	}
}
