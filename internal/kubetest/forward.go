// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Forward takes the connections of a listener, one in another network namespace
// say, to the server, until the test ends or cut is called, which closes the
// listener and all its connections and may be called twice. While the server is
// stopped a connection is accepted and closed.
func (s *Server) Forward(t testing.TB, l net.Listener) (cut func()) {
	t.Helper()
	f := newForwarder(s.Addr, l)
	t.Cleanup(f.cut)
	return f.cut
}

func newForwarder(addr string, l net.Listener) *forwarder {
	f := &forwarder{addr: addr, listener: l, conns: make(map[net.Conn]bool)}
	f.running.Go(f.accept)
	return f
}

type forwarder struct {
	addr     string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	ended bool              // guarded by mu
	conns map[net.Conn]bool // guarded by mu
}

func (f *forwarder) accept() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return // cut
		}
		f.running.Go(func() { f.relay(c) })
	}
}

// relay copies both ways until one side ends.
func (f *forwarder) relay(client net.Conn) {
	defer f.drop(client)
	server, err := net.Dial("tcp", f.addr)
	if err != nil {
		return // the client sees that
	}
	defer f.drop(server)
	if !f.keep(client) || !f.keep(server) {
		return
	}
	f.running.Go(func() {
		defer f.drop(client)
		// an end that is no EOF shows at the client as well
		_, _ = io.Copy(client, server)
	})
	_, _ = io.Copy(server, client)
}

// keep says whether the connection may go on.
func (f *forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.conns[c] = true
	return true
}

func (f *forwarder) drop(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

func (f *forwarder) cut() {
	f.listener.Close()
	f.mu.Lock()
	f.ended = true
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
}
