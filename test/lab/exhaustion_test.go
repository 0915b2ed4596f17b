// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"strings"
	"sync"
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
