// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// TestWhenMasqueradePortsRunOut: 256 connections have one each, what comes then
// is dropped and said, and finds a port when others have closed.
func TestWhenMasqueradePortsRunOut(t *testing.T) {
	const ports = 256
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	s.args = []string{"--masquerade-ports", "1024-1279"}
	client, server := s.Clients()[0], s.Servers()[0]
	s.reveal(server, 8080)
	s.write(masquerading("always", vips, server))
	s.start()
	var talks []*talk
	for range 200 {
		tk, err := call(client, "tcp", 0, vip4)
		if err != nil {
			t.Fatal(err)
		}
		defer tk.Close()
		talks = append(talks, tk)
	}
	more, failed := s.crowd(client, 100)
	if n := len(talks) + len(more); n > ports || failed == 0 {
		t.Errorf("%d connections of %d ports, %d failed", n, ports, failed)
	}
	s.wantDrops("no_port")
	s.eventually("the log says it", func() error {
		s.logMu.Lock()
		defer s.logMu.Unlock()
		if !strings.Contains(s.log.String(), "no port is free to masquerade with") {
			return errors.New("it does not")
		}
		return nil
	})
	for _, tk := range append(talks, more...) {
		if err := tk.exchange(4096); err != nil {
			t.Errorf("an established connection, as %s: %v", tk.seen, err)
		}
	}
	for _, vip := range vips { // the other family and protocol have ports of their own
		if vip == vip4 {
			continue
		}
		tk, err := call(client, "tcp", 0, vip)
		if err != nil {
			t.Fatal(err)
		}
		tk.Close()
	}
	for _, tk := range append(talks, more...) {
		tk.Close()
	}
	again, failed := s.crowd(client, 100)
	if failed > 0 {
		t.Errorf("%d of 100 found no port when all others had closed", failed)
	}
	for _, tk := range again {
		tk.Close()
	}
}

// TestAKernelThatUsesAllPortsKeepsOnlyMasqueradeFromBeingServed: many machines
// are tuned so.
func TestAKernelThatUsesAllPortsKeepsOnlyMasqueradeFromBeingServed(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	if err := s.Director.SetSysctl("net/ipv4/ip_local_port_range", "1024 65535"); err != nil {
		t.Fatal(err)
	}
	client, server := s.Clients()[0], s.Servers()[0]
	s.serve(server, "s1", 8080)
	s.write(s.yaml(server))
	s.start()
	s.logs(1, "masquerading is short of ports", "ip_local_port_range (1024-65535)")
	for _, vip := range vips {
		if _, err := ask(client, vip); err != nil {
			t.Errorf("%v: %v", vip, err)
		}
	}
	s.write(masquerading("always", vips, server))
	s.logs(2, "service not served as desired", "masquerade: the kernel has all ports")
}

// crowd begins n connections at once, each with a few attempts to send its SYN.
func (s *scene) crowd(client *netlab.Node, n int) (talks []*talk, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			tk, err := callWithin(4*time.Second, client, "tcp", 0, vip4)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				return
			}
			talks = append(talks, tk)
		})
	}
	wg.Wait()
	return talks, failed
}

// TestPortsOfConnectionsThatTheServerClosedComeBack: the server remembers such
// a connection for a minute, and takes the next one from its port only if it
// is plainly newer; if not, it answers so that the client clears that up.
func TestPortsOfConnectionsThatTheServerClosedComeBack(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 3, Servers: 1})
	s.args = []string{"--masquerade-ports", "1024-1279"}
	server := s.Servers()[0]
	l, err := server.Listen(t.Context(), "tcp", netip.AddrPortFrom(server.V4, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("bye"))
			c.Close()
		}
	}()
	s.write(masquerading("always", vips[:1], server))
	s.start()
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range 48 {
		wg.Go(func() {
			for done.Add(1) <= 1000 { // four for each port
				if err := farewell(s.Clients()[i%3]); err != nil {
					t.Errorf("connection %d: %v", done.Load(), err)
				}
			}
		})
	}
	wg.Wait()
}

// farewell opens a connection, and closes it when the server has.
func farewell(from *netlab.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", vip4.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		return fmt.Errorf("read %q: %w", b, err)
	}
	return nil
}
