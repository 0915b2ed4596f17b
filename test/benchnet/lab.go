// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// How long things may take. Loading 10,000 services into iptables' nft variant takes
// minutes on a busy machine.
const (
	readyTimeout = 2 * time.Minute
	loadTimeout  = 15 * time.Minute
	stopTimeout  = 30 * time.Second
)

// bed is a network with a client, a director and a server, whose director does with
// packets what a dataplane does. It stays for the whole run: measurements alternate
// between beds, none of which changes.
type bed struct {
	*netlab.Lab
	dataplane *dataplane
	services  int
	tested    service
	client    *netlab.Node
	server    *netlab.Node
	web       *web
	group     *netlab.Cgroup // whose sockets are led; nil: nobody's
	close     []func() error // what is to be undone, the last first
}

// newBed builds one. The caller calls end, unless there is an error.
func newBed(ctx context.Context, o *options, d *dataplane, n int) (b *bed, err error) {
	lab, err := netlab.New(netlab.Options{Prefix: "bench", Clients: 1, Servers: 1})
	if err != nil {
		return nil, err
	}
	b = &bed{Lab: lab, dataplane: d, services: n, client: lab.Clients()[0], server: lab.Servers()[0]}
	b.close = append(b.close, lab.Close)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s with %d services: %w", d.name, n, err), b.end())
			b = nil
		}
	}()
	// A node has a route to everywhere: its own sockets look for one before their
	// destination is translated.
	if err := b.Director.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), b.server.V4); err != nil {
		return b, err
	}
	servers, err := b.serve()
	if err != nil {
		return b, err
	}
	var all []service
	all, b.tested = services(n, servers)
	if err := d.install(ctx, o, b, all); err != nil {
		return b, err
	}
	for _, r := range b.rows() {
		if err := b.answers(ctx, r); err != nil {
			return b, err
		}
	}
	return b, nil
}

// serve starts the servers, and returns the addresses of the web's.
func (b *bed) serve() ([]netip.Addr, error) {
	second := b.server.V4.Next()
	if err := b.server.AddAddr("eth0", netip.PrefixFrom(second, 24)); err != nil {
		return nil, err
	}
	var err error
	if b.web, err = serveWeb(b.server.Namespace, webEndpoint); err != nil {
		return nil, err
	}
	b.close = append(b.close, b.web.close)
	// what nobody reads is dropped when its buffer is full
	sink, err := b.server.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(b.server.V4, sinkPort).String())
	if err != nil {
		return nil, err
	}
	b.close = append(b.close, sink.Close)
	iperf := command("iperf3", "-s", "-p", fmt.Sprint(bulkPort))
	iperf.Stdout, iperf.Stderr = io.Discard, io.Discard
	p, err := b.server.Start(iperf)
	if err != nil {
		return nil, err
	}
	b.close = append(b.close, func() error {
		_ = p.Stop(stopTimeout) // it says that it was interrupted
		return nil
	})
	return []netip.Addr{b.server.V4, second}, nil
}

// end undoes everything.
func (b *bed) end() error {
	var errs []error
	for i := len(b.close) - 1; i >= 0; i-- {
		errs = append(errs, b.close[i]())
	}
	b.close = nil
	return errors.Join(errs...)
}

// row is a path of a bed: a line of the table.
type row struct {
	*bed
	path
}

// rows are those of the bed.
func (b *bed) rows() (all []row) {
	for _, p := range b.dataplane.paths {
		all = append(all, row{b, p})
	}
	return all
}

// namespace is where the client runs; it runs in the right control group there.
func (r row) namespace() *netlab.Namespace {
	n := r.client.Namespace
	if r.from == result.FromNode {
		n = r.Director
	}
	n.SetCgroup(nil)
	if r.led {
		n.SetCgroup(r.group)
	}
	return n
}

// target is what a client connects to: the service, or its first endpoint where there
// are none.
func (r row) target(protocol string, number uint16) netip.AddrPort {
	for _, p := range r.tested.ports {
		if p.protocol == protocol && p.number == number {
			if r.dataplane.bare {
				return p.endpoints[0]
			}
			return netip.AddrPortFrom(r.tested.vip, number)
		}
	}
	panic(fmt.Sprintf("the tested service has no port %s/%d", protocol, number))
}

// answers waits until the service answers to a row's client.
func (b *bed) answers(ctx context.Context, r row) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		for _, number := range []uint16{webPort, bulkPort} {
			err := reach(ctx, r.namespace(), r.target("tcp", number))
			switch {
			case err == nil && number == bulkPort:
				return nil
			case err == nil:
				continue
			case ctx.Err() != nil:
				return ctx.Err()
			case time.Now().After(deadline):
				return fmt.Errorf("port %d does not answer to the %s: %w", number, r.from, err)
			}
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func reach(ctx context.Context, n *netlab.Namespace, to netip.AddrPort) error {
	c, err := n.DialWith(ctx, &net.Dialer{Timeout: time.Second}, "tcp", to.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// command is one that a Ctrl-C at the terminal does not reach: who started it ends it.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// run runs a command in a namespace and returns what it prints.
func run(ctx context.Context, n *netlab.Namespace, timeout time.Duration, cmd *exec.Cmd) ([]byte, error) {
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	p, err := n.Start(cmd)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Stop(stopTimeout)
		return nil, ctx.Err()
	case <-time.After(timeout):
		err = fmt.Errorf("it did not end within %v: %w", timeout, p.Stop(stopTimeout))
	}
	if err = errors.Join(err, p.Wait()); err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, tail(stderr.Bytes()), tail(out.Bytes()))
	}
	return out.Bytes(), nil
}

// tail is the end of what a command said.
func tail(b []byte) []byte { return b[max(0, len(b)-500):] }
