// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/maps/batch"
)

// soakFor makes the long form of the soak: that long, and at a rate that is
// asserted. `make soak` sets it.
var soakFor = flag.Duration("soak", 0, "how long to soak; 0: a fixed number of connections, however long they take")

const (
	soakConnections = 40_000 // of the short form: more than there are ports
	soakRate        = 5_000  // connections a second that the long form must reach
	soakTooFast     = 20_000 // faster than ports can rest for a second: some last ACKs find their flow gone
	soakClients     = 4
	soakThreads     = 16 // of each client, and of the server
)

// soak opens and closes connections as fast as it can.
type soak struct {
	*scene
	vip          netip.AddrPort
	done, failed atomic.Int64
	first        sync.Once // the first failure is shown
	left         atomic.Int64
	stop         atomic.Bool
}

// TestConnectionsToOneMasqueradedBackendFollowEachOther: each needs a port of
// its own towards that backend, and there are fewer than one soak uses; so
// ports of closed connections must come back in time.
func TestConnectionsToOneMasqueradedBackendFollowEachOther(t *testing.T) {
	s := &soak{scene: newScene(t, netlab.Options{Prefix: "soak", Clients: soakClients, Servers: 1}), vip: vip4}
	server := s.Servers()[0]
	s.write(masquerading("always", vips, server))
	s.start()
	for _, c := range s.Clients() { // a client's port is free a second after its connection, not a minute
		if err := c.SetSysctl("net/ipv4/tcp_tw_reuse", "1"); err != nil {
			t.Fatal(err)
		}
	}
	listener := s.answer(server)
	s.left.Store(soakConnections)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if *soakFor > 0 {
		s.left.Store(1 << 40)
		time.AfterFunc(*soakFor, func() { s.stop.Store(true) })
		go s.report(ctx)
	}
	begin := time.Now()
	var clients sync.WaitGroup
	for _, c := range s.Clients() {
		for range soakThreads {
			clients.Go(func() {
				if err := c.Do(s.client); err != nil {
					t.Error(err)
				}
			})
		}
	}
	clients.Wait()
	took := time.Since(begin)
	cancel()
	if err := unix.Shutdown(listener, unix.SHUT_RDWR); err != nil {
		t.Error(err)
	}
	rate := float64(s.done.Load()) / took.Seconds()
	t.Logf("%d connections in %v, %.0f a second, %d failed; %s", s.done.Load(), took.Round(time.Millisecond), rate, s.failed.Load(), s.table())
	if n := s.failed.Load(); n > 0 {
		t.Errorf("%d connections failed", n)
	}
	if *soakFor > 0 && rate < soakRate {
		t.Errorf("%.0f connections a second, want %d", rate, soakRate)
	}
	drops := s.drops()
	delete(drops, "busy") // one SYN of a tuple whose former flow is just being ended: the next one passes
	if rate > soakTooFast {
		delete(drops, "no_flow")
	}
	if len(drops) > 0 {
		t.Errorf("dropped: %v", drops)
	}
}

// client opens one connection after the other: a byte there, a byte back, and
// it closes first.
func (s *soak) client() error {
	addr := &unix.SockaddrInet4{Port: int(s.vip.Port()), Addr: s.vip.Addr().As4()}
	for !s.stop.Load() && s.left.Add(-1) >= 0 {
		s.done.Add(1)
		if err := once(addr); err != nil {
			s.failed.Add(1)
			s.first.Do(func() { s.t.Errorf("the first failure, after %d connections: %v", s.done.Load(), err) })
		}
	}
	return nil
}

func once(addr unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} { // of connect, too
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return fmt.Errorf("limit the wait: %w", err)
		}
	}
	if err := insist(func() error { return unix.Connect(fd, addr) }); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	b, n := []byte("?"), 0
	err = insist(func() error {
		_, err := unix.Write(fd, b)
		return err
	})
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	err = insist(func() error {
		n, err = unix.Read(fd, b)
		return err
	})
	if err != nil || n != 1 {
		return fmt.Errorf("read %d bytes: %w", n, err)
	}
	return nil
}

// answer serves the clients until the returned listener is shut down.
func (s *soak) answer(n *netlab.Node) (listener int) {
	s.t.Helper()
	err := n.Do(func() (err error) {
		if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(listener, &unix.SockaddrInet4{Port: 8080, Addr: n.V4.As4()}); err != nil {
			return err
		}
		return unix.Listen(listener, 4096)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	var servers sync.WaitGroup
	for range soakThreads {
		servers.Go(func() {
			b := make([]byte, 1)
			for {
				fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				if err != nil {
					return
				}
				// what fails here fails at the client; without a time limit no signal breaks in
				_, _ = unix.Read(fd, b)
				_, _ = unix.Write(fd, b)
				_, _ = unix.Read(fd, b)
				unix.Close(fd)
			}
		})
	}
	s.t.Cleanup(func() {
		_ = unix.Shutdown(listener, unix.SHUT_RDWR)
		servers.Wait()
		unix.Close(listener)
	})
	return listener
}

// report prints how it goes, every ten seconds.
func (s *soak) report(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for last := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.done.Load()
		fmt.Printf("%d connections, %d a second, %d failed; %s\n", now, (now-last)/10, s.failed.Load(), s.table())
		last = now
	}
}

// table says what the flow table holds, and what was dropped.
func (s *soak) table() string {
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, "flows"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err.Error()
	}
	defer m.Close()
	var entries, dead, ports int
	err = batch.Each(m, func(k bpf.LBFlowKey, f *bpf.LBFlow) error {
		entries++
		switch {
		case bpf.LBFlowState(f.State) >= bpf.LBFlowStateSTATE_DEAD:
			dead++
		case bpf.LBPosition(k.Position) == bpf.LBPositionPOSITION_E3:
			ports++
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d ports in use, %d flow entries, %d of them at rest, drops %v", ports, entries, dead, s.drops())
}
