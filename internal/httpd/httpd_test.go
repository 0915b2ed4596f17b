// SPDX-License-Identifier: Apache-2.0

package httpd_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/waggle-lb/waggle/internal/httpd"
)

func TestParseAddr(t *testing.T) {
	for _, s := range []string{"127.0.0.1:10249", "0.0.0.0:1", "[::1]:10249", "[fe80::1%eth0]:80", "127.0.0.1:0"} {
		if a, err := httpd.ParseAddr(s); err != nil || a.String() != s {
			t.Errorf("%s is read as %s, error %v", s, a, err)
		}
	}
	for _, s := range []string{"", ":10249", "10249", "127.0.0.1", "localhost:10249", "::1:10249", "127.0.0.1:65536", "127.0.0.1:http"} {
		if a, err := httpd.ParseAddr(s); err == nil || !strings.Contains(err.Error(), "write 127.0.0.1:10249") {
			t.Errorf("%q is read as %s, error %v; want one that says what to write", s, a, err)
		}
	}
}

const flag = "--test-bind-address"

func newServer(t *testing.T, h http.HandlerFunc) *httpd.Server {
	t.Helper()
	l, err := httpd.Listen(flag, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &httpd.Server{Name: "tests", Listener: l, Handler: h, Log: slog.New(slog.DiscardHandler)}
}

func TestErrorsNameTheFlag(t *testing.T) {
	taken := newServer(t, nil).Listener.Addr().String()
	for _, tc := range []struct {
		addr, want string
		is         error
	}{
		{taken, flag + ": listen tcp " + taken + ": ", syscall.EADDRINUSE},
		{"203.0.113.1:80", "no device of this machine has the address", syscall.EADDRNOTAVAIL},
	} {
		if _, err := httpd.Listen(flag, netip.MustParseAddrPort(tc.addr)); !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %v with %q", tc.addr, err, tc.is, tc.want)
		}
	}
}

// answered asks, and wants an answer.
func answered(t *testing.T, s *httpd.Server) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRunAnswersUntilItsContextEnds(t *testing.T) {
	ended := make(chan error, 1)
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") })
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	if got := answered(t, s); got != "well" {
		t.Errorf("answer %q", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	again, err := httpd.Listen(flag, netip.MustParseAddrPort(s.Listener.Addr().String()))
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhoIsBeingAnsweredAtTheEndIsAnswered(t *testing.T) {
	asked, end, ended := make(chan bool), make(chan bool), make(chan error, 1)
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- true
		<-end
		_, _ = io.WriteString(w, "late")
	})
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- s.Run(ctx) }()
	go func() {
		<-asked
		stop()
		for { // until it is about to end, which closes the listener first
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				break
			}
			c.Close()
		}
		close(end)
	}()
	if got := answered(t, s); got != "late" {
		t.Errorf("answer %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
