// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// service is a Service of a line, and the port at which its pods serve.
type service struct {
	e        *e2e
	name     string
	families string // of its cluster IPs, as in YAML: "IPv4, IPv6"
	target   uint16
	object   kubetest.Object
}

// service makes a Service of one port, 80, of TCP and UDP. spec is more of its spec,
// as YAML in braces leaves it: "type: NodePort, sessionAffinity: ClientIP".
func (e *e2e) service(name, spec string) *service {
	s := &service{e: e, name: name, families: e.family(), target: e.port()}
	s.apply(spec)
	return s
}

// apply changes the Service's spec.
func (s *service) apply(spec string) {
	s.object = s.e.object(s.yaml(spec))
}

func (s *service) yaml(spec string) string {
	if spec != "" {
		spec = ", " + spec
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {ipFamilies: [%s], ports: [
  {name: tcp, protocol: TCP, port: 80, targetPort: %d}, {name: udp, protocol: UDP, port: 80, targetPort: %d}]%s}`,
		s.name, s.families, s.target, s.target, spec)
}

func (e *e2e) family() string {
	if e.v6 {
		return "IPv6"
	}
	return "IPv4"
}

// refresh reads what the API server made of it.
func (s *service) refresh() *service {
	s.object = s.e.api.Get(s.e.t, "Service", s.e.ns, s.name)
	return s
}

// vip is the cluster IP of the line's family, at port 80.
func (s *service) vip() netip.AddrPort {
	for _, text := range s.object.Texts("spec", "clusterIPs") {
		if ip := netip.MustParseAddr(text); ip.Is6() == s.e.v6 {
			return netip.AddrPortFrom(ip, 80)
		}
	}
	s.e.fail("%s has no cluster IP of %s", s.name, s.e.family())
	return netip.AddrPort{}
}

// nodePort is where a node serves it, by TCP: port number i of the spec.
func (s *service) nodePort(n *node, i int) netip.AddrPort {
	return netip.AddrPortFrom(n.addr(s.e.v6), uint16(s.object.Int("spec", "ports", i, "nodePort")))
}

// backends makes pods, all ready, the endpoints, and lets them serve.
func (s *service) backends(pods ...*pod) *service {
	s.serve(pods...)
	s.endpoints(s.ready(pods...)...)
	return s
}

// serve lets pods answer at the target port until the line ends.
func (s *service) serve(pods ...*pod) {
	for _, p := range pods {
		s.e.serve(p, s.target)
	}
}

func (e *e2e) serve(p *pod, port uint16) (stop func()) {
	stop, err := p.Serve(netip.AddrPortFrom(p.addr(e.v6), port), greeting(p.name))
	e.try(err)
	e.stops = append(e.stops, stop)
	return stop
}

// greeting is what a server of a name says: who it is, and whom it sees.
func greeting(name string) func(net.Addr) string {
	return func(peer net.Addr) string { return fmt.Sprintf("%s %s\n", name, peer) }
}

func (s *service) ready(pods ...*pod) (out []kubetest.Endpoint) {
	for _, p := range pods {
		out = append(out, s.e.endpoint(p, kubetest.Ready))
	}
	return out
}

func (e *e2e) endpoint(p *pod, state kubetest.State) kubetest.Endpoint {
	return kubetest.Endpoint{Addr: p.addr(e.v6), State: state, Node: p.node.name, Zone: p.node.zone()}
}

func (s *service) endpoints(list ...kubetest.Endpoint) {
	s.e.api.SetEndpoints(s.e.t, s.e.ns, s.name, list...)
}

// balancer gives the Service an address of a load balancer.
func (s *service) balancer(addr netip.Addr) netip.AddrPort {
	s.e.api.UpdateStatus(s.e.t, "Service", s.e.ns, s.name, fmt.Sprintf("loadBalancer: {ingress: [{ip: %q}]}", addr))
	return netip.AddrPortFrom(addr, 80)
}

// external is an address that no node has, and no other line takes.
func (e *e2e) external() netip.Addr {
	n := ports.Add(1)
	if e.v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:cb00::%x", n))
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(n%250) + 1})
}

// client is who dials: a pod, the outside client, or a node.
type client interface {
	DialWith(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error)
	addr(v6 bool) netip.Addr
}

// reply is what a pod says.
type reply struct {
	pod    string
	source netip.Addr // what it sees as the client
}

// once opens a connection, or sends a datagram from a port of its own, and reads who
// answers.
func once(c client, network string, to netip.AddrPort) (reply, error) {
	conn, r, err := dial(c, network, to, 0)
	if err == nil {
		err = conn.Close()
	}
	return r, err
}

// oneTry is how long one connection or datagram may take.
const oneTry = 2 * time.Second

func dial(c client, network string, to netip.AddrPort, port int) (net.Conn, reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), oneTry)
	defer cancel()
	d := &net.Dialer{}
	switch {
	case port != 0 && network == "udp":
		d.LocalAddr = &net.UDPAddr{Port: port}
	case port != 0:
		d.LocalAddr = &net.TCPAddr{Port: port}
	}
	conn, err := c.DialWith(ctx, d, network, to.String())
	if err != nil {
		return nil, reply{}, err
	}
	r, err := ask(conn, network)
	if err != nil {
		return nil, reply{}, errors.Join(err, conn.Close())
	}
	return conn, r, nil
}

// ask reads the greeting of a connection, or of an answer to a datagram.
func ask(conn net.Conn, network string) (r reply, err error) {
	if err := conn.SetDeadline(time.Now().Add(oneTry)); err != nil {
		return r, err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return r, err
		}
	}
	text, err := bufio.NewReaderSize(conn, 128).ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("read the greeting: %w", err)
	}
	name, peer, _ := strings.Cut(strings.TrimSpace(text), " ")
	source, err := netip.ParseAddrPort(peer)
	return reply{name, source.Addr().Unmap()}, err
}

var networks = []string{"tcp", "udp"}

// reaches waits until a client is answered by one of these pods, by TCP and UDP, and by
// all of them in the end. No pods: by anyone.
func (e *e2e) reaches(c client, to netip.AddrPort, pods ...*pod) (last reply) {
	for _, network := range networks {
		last = e.reachesBy(network, c, to, pods...)
	}
	return last
}

func (e *e2e) reachesBy(network string, c client, to netip.AddrPort, pods ...*pod) (last reply) {
	want := names(pods)
	seen := make(map[string]bool)
	e.eventually(fmt.Sprintf("%s reaches %s by %s", c.addr(e.v6), to, network), func() error {
		r, err := once(c, network, to)
		if err != nil {
			clear(seen)
			return err
		}
		if last = r; len(want) == 0 {
			return nil
		}
		if !slices.Contains(want, r.pod) {
			clear(seen)
			return fmt.Errorf("%s answers, want %v", r.pod, want)
		}
		if seen[r.pod] = true; len(seen) < len(want) {
			return fmt.Errorf("of %v only %v answered", want, seen)
		}
		return nil
	})
	return last
}

func names(pods []*pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.name)
	}
	return out
}

// refuses waits until connections are refused, by TCP and UDP.
func (e *e2e) refuses(c client, to netip.AddrPort) {
	e.unreached("is refused", c, to, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
}

// silent waits until there is no answer, by TCP and UDP.
func (e *e2e) silent(c client, to netip.AddrPort) {
	e.unreached("gets no answer", c, to, func(err error) bool {
		var timeout net.Error
		return errors.As(err, &timeout) && timeout.Timeout()
	})
}

// fails waits until there is no connection, whatever the error.
func (e *e2e) fails(c client, to netip.AddrPort) {
	e.unreached("fails", c, to, func(error) bool { return true })
}

func (e *e2e) unreached(how string, c client, to netip.AddrPort, is func(error) bool) {
	for _, network := range networks {
		e.eventually(fmt.Sprintf("%s %s at %s by %s", c.addr(e.v6), how, to, network), func() error {
			r, err := once(c, network, to)
			if err == nil {
				return fmt.Errorf("%s answers", r.pod)
			}
			if !is(err) {
				return err
			}
			return nil
		})
	}
}
