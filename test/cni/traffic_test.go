// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package cni_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

const podPort = 8080

// service is what one port of both VIPs leads to, by TCP and by UDP.
type service struct {
	port uint16
	pods []*host
	// masked: pods are to see their node's address.
	masked bool
}

func vip(port uint16, v6 bool) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(netlab.VIP6, port)
	}
	return netip.AddrPortFrom(netlab.VIP4, port)
}

// rules is the YAML for services.
func rules(services ...service) string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for _, s := range services {
		masquerade := "never"
		if s.masked {
			masquerade = "always"
		}
		for _, proto := range []string{"TCP", "UDP"} {
			fmt.Fprintf(&b, "- name: port-%d-%s\n  masquerade: %s\n  frontends: [\"%v/%s\", \"%v/%s\"]\n  backends:\n",
				s.port, strings.ToLower(proto), masquerade, vip(s.port, false), proto, vip(s.port, true), proto)
			for _, p := range s.pods {
				fmt.Fprintf(&b, "  - {address: \"%v\"}\n  - {address: \"%v\"}\n", netip.AddrPortFrom(p.v4, podPort), netip.AddrPortFrom(p.v6, podPort))
			}
		}
	}
	return b.String()
}

// serve answers on the host, on port 8080 of its addresses, by a line with its
// name and the address that it sees, and echoes.
func (s *scene) serve(hosts ...*host) {
	s.Helper()
	for _, h := range hosts {
		for _, v6 := range []bool{false, true} {
			stop, err := h.Serve(netip.AddrPortFrom(h.addr(v6), podPort), func(peer net.Addr) string {
				return fmt.Sprintf("%s %s\n", h.name, peer)
			})
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(stop)
		}
	}
}

// answerer says who answered, and whom it saw.
type answerer struct {
	name string
	saw  netip.Addr
}

func parseAnswer(line string) (answerer, error) {
	name, from, _ := strings.Cut(strings.TrimSpace(line), " ")
	saw, err := netip.ParseAddrPort(from)
	return answerer{name, saw.Addr()}, err
}

// visit makes one connection from a new port. TCP brings the bytes there and
// back.
func visit(from *host, network string, to netip.AddrPort, bytes int) (answerer, error) {
	timeout := patience
	if network == "udp" {
		timeout = patience / 10
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := from.Dial(ctx, network, to.String())
	if err != nil {
		return answerer{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return answerer{}, err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return answerer{}, err
		}
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return answerer{}, fmt.Errorf("read the greeting: %w", err)
	}
	if network == "tcp" && bytes > 0 {
		b := make([]byte, bytes)
		rand.Read(b) // never fails
		if err := netlab.Echo(c, r, b); err != nil {
			return answerer{}, err
		}
	}
	return parseAnswer(line)
}

// settle waits until neighbours are known: a datagram gets through to each
// pod, without the VIP.
func (s *scene) settle(from []*host, pods ...*host) {
	s.Helper()
	for _, f := range from {
		for _, p := range pods {
			for _, v6 := range []bool{false, true} {
				s.eventually(fmt.Sprintf("%s reaches %s", f.name, p.name), func() error {
					_, err := visit(f, "udp", netip.AddrPortFrom(p.addr(v6), podPort), 0)
					return err
				})
			}
		}
	}
}

// reaches checks that a client gets to the pods of a service, to all of them
// in turn, in both families, by TCP with a MiB each way and by UDP. Pods see
// the client's own address, unless masked.
func (s *scene) reaches(from *host, svc service, masked bool) {
	s.Helper()
	for _, v6 := range []bool{false, true} {
		for _, network := range []string{"tcp", "udp"} {
			seen := map[string]int{}
			for range 2 * len(svc.pods) {
				who, err := visit(from, network, vip(svc.port, v6), 1<<20)
				if err != nil {
					s.Fatalf("%s to %s %v: %v", from.name, network, vip(svc.port, v6), err)
				}
				seen[who.name]++
				if (who.saw != from.addr(v6)) != masked {
					s.Errorf("%s to %s %v: %s saw %v, the client is %v", from.name, network, vip(svc.port, v6), who.name, who.saw, from.addr(v6))
				}
			}
			for _, p := range svc.pods {
				if seen[p.name] != 2 {
					s.Errorf("%s to %s %v: answers %v, want 2 of each pod", from.name, network, vip(svc.port, v6), seen)
				}
			}
		}
	}
}

// direct checks that connections past the VIP are as without waggle.
func (s *scene) direct(from, to *host) {
	s.Helper()
	for _, v6 := range []bool{false, true} {
		for _, network := range []string{"tcp", "udp"} {
			who, err := visit(from, network, netip.AddrPortFrom(to.addr(v6), podPort), 1<<20)
			if err != nil || who != (answerer{to.name, from.addr(v6)}) {
				s.Errorf("%s to %s of %s itself: %v, error %v", from.name, network, to.name, who, err)
			}
		}
	}
}
