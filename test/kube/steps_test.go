// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// service is a Service of a line.
type service struct {
	e        *e2e
	name     string
	families string // of its cluster IPs, as in YAML: "IPv4, IPv6"
	target   uint16 // the port at which its pods serve, unless ports say otherwise
	ports    []servicePort
	// annotations are of its metadata, as YAML in braces leaves them.
	annotations string
	object      kubetest.Object
}

// servicePort is a port of a Service's spec, or with its target of an EndpointSlice.
type servicePort struct {
	name, protocol string
	port, target   uint16
	nodePort       uint16 // 0: the API server's choice
}

// service makes a Service of one port, 80, of TCP and UDP. spec is more of its spec,
// as YAML in braces leaves it: "type: NodePort, sessionAffinity: ClientIP".
func (e *e2e) service(name, spec string) *service {
	s := e.newService(name, e.family(), e.port())
	s.apply(spec)
	return s
}

// newService is one of port 80 that nobody has applied yet. families are of its cluster
// IPs, as in YAML, target is the port at which its pods serve.
func (e *e2e) newService(name, families string, target uint16) *service {
	s := &service{e: e, name: name, families: families, ports: []servicePort{{"tcp", "TCP", 80, 0, 0}, {"udp", "UDP", 80, 0, 0}}}
	s.serveAt(target)
	return s
}

// serveAt says at which port its pods serve all of its ports.
func (s *service) serveAt(target uint16) {
	s.target = target
	for i := range s.ports {
		s.ports[i].target = target
	}
}

// serviceAt makes a Service of other ports.
func (e *e2e) serviceAt(name, spec string, ports ...servicePort) *service {
	s := &service{e: e, name: name, families: e.family(), target: ports[0].target, ports: ports}
	s.apply(spec)
	return s
}

// apply changes the Service's spec, and makes the Service if it is not there.
func (s *service) apply(spec string) *service {
	s.object = s.e.object(s.yaml(spec))
	return s
}

func (s *service) yaml(spec string) string {
	var ports []string
	for _, p := range s.ports {
		text := fmt.Sprintf("{name: %q, protocol: %s, port: %d, targetPort: %d", p.name, p.protocol, p.port, p.target)
		if p.nodePort != 0 {
			text += fmt.Sprintf(", nodePort: %d", p.nodePort)
		}
		ports = append(ports, text+"}")
	}
	fields := []string{"ports: [" + strings.Join(ports, ", ") + "]"}
	if !strings.Contains(spec, "ExternalName") { // which has no address
		fields = append(fields, "ipFamilies: ["+s.families+"]")
	}
	if spec != "" {
		fields = append(fields, spec)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, annotations: {%s}}\nspec: {%s}", s.name, s.annotations, strings.Join(fields, ", "))
}

// delete deletes the Service, and leaves its EndpointSlices for a while: for ever, as
// nobody collects garbage here.
func (s *service) delete() { s.e.api.Delete(s.e.t, "Service", s.e.ns, s.name) }

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

// vip is the cluster IP of the line's family, at the first port.
func (s *service) vip() netip.AddrPort { return s.vipAt(0) }

// vipAt is the cluster IP of the line's family, at port number i of the spec.
func (s *service) vipAt(i int) netip.AddrPort {
	for _, text := range s.object.Texts("spec", "clusterIPs") {
		if ip := netip.MustParseAddr(text); ip.Is6() == s.e.v6 {
			return netip.AddrPortFrom(ip, s.ports[i].port)
		}
	}
	s.e.fail("%s has no cluster IP of %s", s.name, s.e.family())
	return netip.AddrPort{}
}

// nodePort is where a node serves it: port number i of the spec. A new Service has one
// node port for TCP and UDP at the same port.
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

// serve lets a pod answer at a port until the line ends, or stop is called.
func (e *e2e) serve(p *pod, port uint16) (stop func()) {
	at := netip.AddrPortFrom(p.addr(e.v6), port)
	if stop := e.serving[at]; stop != nil {
		return stop
	}
	end, err := p.Serve(at, greeting(p.name))
	e.try(err)
	stop = func() {
		if e.serving[at] != nil {
			delete(e.serving, at)
			end()
		}
	}
	e.serving[at] = stop
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

// externals are given out once, to all lines.
var externals atomic.Uint32

// external is an address that no node has, and no other line takes.
func (e *e2e) external() netip.Addr {
	n := externals.Add(1)
	if n > 250 {
		e.fail("no external address is left: widen vipNets")
	}
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

// oneTry is how long one connection or datagram may take. TestMain makes it longer where
// instructions are emulated.
var oneTry = 2 * time.Second

func deadline() time.Time { return time.Now().Add(oneTry) }

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
	if err := conn.SetDeadline(deadline()); err != nil {
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
	return e.answered(network, c, to, func(reply) error { return nil }, pods...)
}

// seenAs is reaches, and each pod must see the client as source says.
func (e *e2e) seenAs(source func(*pod) netip.Addr, c client, to netip.AddrPort, pods ...*pod) {
	for _, network := range networks {
		e.seenBy(network, source, c, to, pods...)
	}
}

func (e *e2e) seenBy(network string, source func(*pod) netip.Addr, c client, to netip.AddrPort, pods ...*pod) {
	check := func(r reply) error {
		for _, p := range pods {
			if p.name == r.pod && r.source != source(p) {
				return fmt.Errorf("%s sees %s, want %s", r.pod, r.source, source(p))
			}
		}
		return nil
	}
	e.answered(network, c, to, check, pods...)
}

// answered waits until the pods, each of them and nobody else, have answered a few times
// in turn, and check liked all answers. No pods: until anyone has, once.
func (e *e2e) answered(network string, c client, to netip.AddrPort, check func(reply) error, pods ...*pod) (last reply) {
	want := names(pods)
	tries := 1
	if len(want) > 0 {
		tries = 2*len(want) + 2 // picks go round: one pod too many shows
	}
	e.eventually(fmt.Sprintf("%s reaches %s by %s", c.addr(e.v6), to, network), func() error {
		seen := make(map[string]bool)
		for range tries {
			r, err := once(c, network, to)
			if err == nil {
				err = check(r)
			}
			if err != nil {
				return err
			}
			if len(want) > 0 && !slices.Contains(want, r.pod) {
				return fmt.Errorf("%s answers, want %v", r.pod, want)
			}
			seen[r.pod], last = true, r
		}
		if len(seen) < len(want) {
			return fmt.Errorf("of %v only %v answered", want, slices.Sorted(maps.Keys(seen)))
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

// refuses waits until connections are refused, by TCP and UDP. A client and a node in one
// machine see that at the second SYN, by IPv6: the kernel takes no notice of an error that
// comes while the socket is still sending the first (LockDroppedIcmps).
func (e *e2e) refuses(c client, to netip.AddrPort) { e.refusesBy(networks, c, to) }

func (e *e2e) refusesBy(by []string, c client, to netip.AddrPort) {
	e.unreached("is refused", by, c, to, refused)
}

// silent waits until there is no answer, by TCP and UDP.
func (e *e2e) silent(c client, to netip.AddrPort) {
	e.unreached("gets no answer", networks, c, to, dropped)
}

// fails waits until there is no connection, whatever the error.
func (e *e2e) fails(c client, to netip.AddrPort) {
	e.unreached("fails", networks, c, to, func(error) bool { return true })
}

func (e *e2e) unreached(how string, by []string, c client, to netip.AddrPort, is func(error) bool) {
	try := func(network string) error {
		r, err := once(c, network, to)
		switch {
		case err == nil:
			return fmt.Errorf("%s answers by %s", r.pod, network)
		case !is(err):
			return err
		}
		return nil
	}
	e.eventually(fmt.Sprintf("%s %s at %s", c.addr(e.v6), how, to), func() error {
		errs := make(chan error)
		for _, network := range by {
			go func() { errs <- try(network) }()
		}
		var all []error
		for range by {
			all = append(all, <-errs)
		}
		return errors.Join(all...)
	})
}
