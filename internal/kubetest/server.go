// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/waggle-lb/waggle/internal/testbinary"
)

// Server is a running API server.
type Server struct {
	// Addr is its address and port, URL the same with https.
	Addr, URL string
	// Token is one of system:masters.
	Token string
	// CA is the file of its certificate authority.
	CA string

	process runner
	http    *http.Client

	mu         sync.Mutex
	kinds      map[string]resource // guarded by mu; nil: not asked for yet
	namespaces map[string]bool     // guarded by mu; those that tests made and that still are
}

// runner is what runs the server: a process here, or the host of a guest. Its methods
// must not be called at once.
type runner interface {
	start() (said, error) // and returns when the server is ready
	running() bool
	stop() error // as a rolling update would; data and port stay
	kill() error // as a crash would
	remove() error
}

// Shared is the server of the tests of a package: the first Start starts it, and
// it ends with the test process. The zero value can be used.
type Shared struct {
	// Flags are further flags of kube-apiserver ("--event-ttl=1m"); of a flag
	// that is there twice the last counts.
	Flags []string

	once   sync.Once
	server *Server
	err    error
}

// Start returns the server, which is started if it was not.
func (s *Shared) Start(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = start(s.Flags) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Start starts a server that ends with the test; flags are Shared's.
func Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	s, err := start(flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.process.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func start(flags []string) (*Server, error) {
	if file, ok := os.LookupEnv(lentVariable); ok {
		return borrow(file, flags)
	}
	binary, err := testbinary.APIServer.Find()
	if err != nil {
		return nil, err
	}
	p, err := newProcess(binary, flags)
	if err != nil {
		return nil, err
	}
	said, err := p.start()
	var s *Server
	if err == nil {
		s, err = serverOf(p, p.addr.String(), said)
	}
	if err != nil {
		// why it did not start matters more than what is left
		_ = p.remove()
		return nil, err
	}
	return s, nil
}

func serverOf(r runner, addr string, said said) (*Server, error) {
	ca, err := os.ReadFile(said.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s has no certificate", said.CA)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	return &Server{
		Addr: addr, URL: said.URL, Token: said.Token, CA: said.CA,
		process: r, http: &http.Client{Transport: transport},
		namespaces: make(map[string]bool),
	}, nil
}

// Stop ends the server as a rolling update would: it lets requests finish. Its
// port refuses connections, and its data stay, until Restart, which the end of
// the test calls if the test has not. It takes 2 seconds if there are watches.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.restartAfter(t)
	if err := s.process.stop(); err != nil {
		t.Fatal(err)
	}
}

// Kill is Stop as a crash would do it.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.restartAfter(t)
	if err := s.process.kill(); err != nil {
		t.Fatal(err)
	}
}

// restartAfter sees to it that who shares the server finds it running. It is
// registered after whatever the test wants removed, so it runs before.
func (s *Server) restartAfter(t testing.TB) {
	t.Cleanup(func() {
		if !s.process.running() {
			s.Restart(t)
		}
	})
}

// Restart stops the server if it runs and starts it at the same address with
// the same data, and returns when it is ready.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.process.stop(); err != nil {
		t.Fatal(err)
	}
	s.http.CloseIdleConnections()
	if _, err := s.process.start(); err != nil {
		t.Fatal(err)
	}
}
