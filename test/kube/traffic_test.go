// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// words are what the suite calls the networks in its names: it speaks HTTP where
// connections of TCP do here.
var words = map[string]string{"tcp": "http", "udp": "udp"}

// nodePortBy is where a node serves it by a network.
func (s *service) nodePortBy(network string, n *node) netip.AddrPort {
	return s.nodePort(n, slices.Index(networks, network))
}

// often is how many answers in a row make a rule.
const often = 15

// only waits until so many connections in a row as make a rule are answered by these
// pods alone, and by each of them.
func (e *e2e) only(network string, c client, to netip.AddrPort, pods ...*pod) {
	want := names(pods)
	e.eventually(fmt.Sprintf("%s reaches only %v at %s by %s", c.addr(e.v6), want, to, network), func() error {
		seen, err := answers(network, c, to)
		if err != nil {
			return err
		}
		slices.Sort(want)
		if got := slices.Compact(slices.Sorted(slices.Values(seen))); !slices.Equal(got, want) {
			return fmt.Errorf("answers come from %v", got)
		}
		return nil
	})
}

// answers are the names of pods that answer one connection after the other.
func answers(network string, c client, to netip.AddrPort) (seen []string, err error) {
	for range often {
		r, err := once(c, network, to)
		if err != nil {
			return nil, err
		}
		seen = append(seen, r.pod)
	}
	return seen, nil
}

// carries sends this many bytes, gets them back, and says who echoed.
func carries(network string, c client, to netip.AddrPort, size int) (pod string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), oneTry)
	defer cancel()
	conn, err := c.DialWith(ctx, &net.Dialer{}, network, to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(oneTry)); err != nil {
		return "", err
	}
	message := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	if network == "udp" {
		return echoed(conn, message)
	}
	r := bufio.NewReader(conn)
	text, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the greeting: %w", err)
	}
	pod, _, _ = strings.Cut(text, " ")
	return pod, netlab.Echo(conn, r, message)
}

// echoed sends a datagram and waits for the answer that has it.
func echoed(conn net.Conn, message []byte) (pod string, err error) {
	if _, err := conn.Write(message); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return "", fmt.Errorf("read the answer: %w", err)
		}
		greeting, echo, _ := bytes.Cut(buf[:n], []byte("\n"))
		if bytes.Equal(echo, message) { // and not a late answer to another
			pod, _, _ = strings.Cut(string(greeting), " ")
			return pod, nil
		}
	}
}

// traffic is clients that connect again and again.
type traffic struct {
	e       *e2e
	workers int
	done    chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex
	rounds []int   // guarded by mu; of each worker
	failed []error // guarded by mu
}

// traffic lets clients connect to an address by both networks until it is ended, or
// the line ends.
func (e *e2e) traffic(to netip.AddrPort, clients ...client) *traffic {
	f := &traffic{e: e, done: make(chan struct{}), workers: len(clients) * len(networks)}
	f.rounds = make([]int, f.workers)
	for i := range f.workers {
		c, network := clients[i/len(networks)], networks[i%len(networks)]
		f.running.Go(func() { f.work(i, c, network, to) })
	}
	e.stops = append(e.stops, f.end)
	f.turn()
	return f
}

// pace leaves the machine to others, too.
const pace = 10 * time.Millisecond

// fresh counts ports of clients.
var fresh atomic.Uint32

// freshPort is one that no traffic had: a datagram of a port that had a flow minutes ago
// goes where that one did as long as its endpoint serves, and that is not how a new client
// fares.
func freshPort() int { return 10_000 + int(fresh.Add(1)%22_000) }

func (f *traffic) work(worker int, c client, network string, to netip.AddrPort) {
	for {
		select {
		case <-f.done:
			return
		case <-time.After(pace):
		}
		port := 0
		if network == "udp" {
			port = freshPort()
		}
		conn, _, err := dial(c, network, to, port)
		if err == nil {
			err = conn.Close()
		}
		f.mu.Lock()
		f.rounds[worker]++
		if err != nil {
			f.failed = append(f.failed, fmt.Errorf("%s %s by %s: %w", time.Now().Format(time.StampMilli), to, network, err))
		}
		f.mu.Unlock()
	}
}

// end ends it; it may be called twice.
func (f *traffic) end() {
	f.mu.Lock()
	select {
	case <-f.done:
	default:
		close(f.done)
	}
	f.mu.Unlock()
	f.running.Wait()
}

// turn waits until each client has begun a connection since now, and ended it.
func (f *traffic) turn() {
	f.mu.Lock()
	before := slices.Clone(f.rounds)
	f.mu.Unlock()
	f.e.eventually("all clients go on", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, n := range f.rounds {
			if n < before[i]+2 { // one was under way
				return fmt.Errorf("client %d is at round %d", i, n)
			}
		}
		return nil
	})
}

// succeeded ends the line if a connection failed.
func (f *traffic) succeeded() {
	f.end()
	total := 0
	for _, n := range f.rounds {
		total += n
	}
	if len(f.failed) > 0 {
		f.e.fail("%d of %d connections failed: %v", len(f.failed), total, errors.Join(f.failed[:min(5, len(f.failed))]...))
	}
}

// unreachable waits until the client has no answer by a network.
func (e *e2e) unreachable(network string, c client, at netip.AddrPort) {
	e.eventually(fmt.Sprintf("%s does not reach %s by %s", c.addr(e.v6), at, network), func() error {
		if r, err := once(c, network, at); err == nil {
			return fmt.Errorf("%s answers", r.pod)
		}
		return nil
	})
}

// refusedBy waits until a client is refused by a network.
func (e *e2e) refusedBy(network string, c client, at netip.AddrPort) {
	e.eventually(fmt.Sprintf("%s is refused at %s by %s", c.addr(e.v6), at, network), func() error {
		if r, err := once(c, network, at); !refused(err) {
			return fmt.Errorf("%s answers: %w", r.pod, err)
		}
		return nil
	})
}

// refused says whether a socket has been told that nobody is there.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) || denied(err) }

// dropped says whether a socket has heard nothing.
func dropped(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || denied(err)
}

// denied says that a rule drops or refuses what a process of the node sends: a datagram
// then fails at once, with netfilter's word for it, while a connection is tried again.
func denied(err error) bool { return *dataplaneWord == byIPVS && errors.Is(err, syscall.EPERM) }

// allSilent waits until clients have no answer from any of these addresses, by TCP and
// UDP. They try at once: a try lasts as long as it may.
func (e *e2e) allSilent(at []netip.AddrPort, clients ...client) {
	e.none(at, unanswered, clients...)
}

// allGone is allSilent, of VIPs of a Service that is gone: IPVS refuses them until the
// last connection of before is over.
func (e *e2e) allGone(at []netip.AddrPort, clients ...client) {
	e.none(at, func(network string, c client, to netip.AddrPort) error {
		err := unanswered(network, c, to)
		if *dataplaneWord == byIPVS && refused(err) {
			return nil
		}
		return err
	}, clients...)
}

// allDead is allSilent, whatever the errors.
func (e *e2e) allDead(at []netip.AddrPort, clients ...client) {
	e.none(at, func(network string, c client, to netip.AddrPort) error {
		if r, err := once(c, network, to); err == nil {
			return fmt.Errorf("%s answers at %s by %s", r.pod, to, network)
		}
		return nil
	}, clients...)
}

func (e *e2e) none(at []netip.AddrPort, fails func(string, client, netip.AddrPort) error, clients ...client) {
	e.eventually(fmt.Sprintf("%v do not answer", at), func() error {
		tries := make(chan error)
		n := 0
		for _, to := range at {
			for _, c := range clients {
				for _, network := range networks {
					n++
					go func() { tries <- fails(network, c, to) }()
				}
			}
		}
		var all []error
		for range n {
			all = append(all, <-tries)
		}
		return errors.Join(all...)
	})
}

func unanswered(network string, c client, to netip.AddrPort) error {
	r, err := once(c, network, to)
	switch {
	case err == nil:
		return fmt.Errorf("%s answers at %s by %s", r.pod, to, network)
	case dropped(err):
		return nil
	}
	return err
}

// via leads the outside client to an address by a node.
func (e *e2e) via(n *node, to netip.Addr) {
	dst := &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}
	e.try(e.outside.Netlink().RouteReplace(&netlink.Route{Dst: dst, Gw: n.addr(e.v6).AsSlice()}))
}
