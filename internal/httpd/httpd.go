// SPDX-License-Identifier: Apache-2.0

// Package httpd serves HTTP at an address that a flag names.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/task"
)

// ParseAddr reads ADDRESS:PORT, in kube-proxy's form: the address is a number,
// and a port must be there.
func ParseAddr(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("%q is not ADDRESS:PORT: write 127.0.0.1:10249, or for all addresses 0.0.0.0:10249 or [::]:10249", s)
	}
	return a, nil
}

// Listen takes an address, so that what is wrong with it shows before anything
// else is done. Errors begin with the flag that named it.
func Listen(flag string, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", addr.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %w: another process listens there (ss -ltnp names it): choose another port", flag, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: %w: no device of this machine has the address", flag, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return l, nil
}

// NewServer makes a server that has no patience with slow clients. What it has to say of
// them is logged at debug level.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: askWithin,
		IdleTimeout:       idleFor,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Server is the task that answers.
type Server struct {
	task.Readiness
	// Name says in logs what is served: "metrics".
	Name     string
	Listener net.Listener // closed when Run returns
	Handler  http.Handler
	Log      *slog.Logger
}

// How long a client may take for what it asks, and for its next question; and how
// long an answer may take once the process is to end.
const (
	askWithin    = 10 * time.Second
	idleFor      = 2 * time.Minute
	answerWithin = 2 * time.Second
)

// String returns "metrics at 127.0.0.1:10249".
func (s *Server) String() string { return s.Name + " at " + s.Listener.Addr().String() }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	server := NewServer(s.Handler, s.Log)
	s.Log.InfoContext(ctx, "serving HTTP", "what", s.Name, "address", s.Listener.Addr().String())
	s.SetReady() // a connection is accepted from Listen on
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.Listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// the context is over, and those that are being answered have a little time
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer stop()
	if err := server.Shutdown(last); err != nil {
		return server.Close()
	}
	return nil
}
