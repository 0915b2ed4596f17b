// SPDX-License-Identifier: Apache-2.0

package httpd_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/httpd"
)

func TestAnAddressThatIsTakenIsWaitedFor(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	addr := netip.MustParseAddrPort(other.Addr().String())
	failed := make(chan error, 10)
	p := &httpd.Patient{
		Name: "tests", Flag: flag, Addr: addr, Log: slog.New(slog.DiscardHandler), Failed: func(err error) { failed <- err },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }),
	}
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- p.Run(ctx) }()
	if err := <-failed; !strings.HasPrefix(err.Error(), flag+": listen tcp "+addr.String()) {
		t.Errorf("told of %v", err)
	}
	<-p.Ready()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for answered := false; !answered; {
		res, err := http.Get("http://" + addr.String())
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		b, err := io.ReadAll(res.Body)
		if answered = true; err != nil || string(b) != "well" {
			t.Errorf("answer %q, %v", b, err)
		}
		res.Body.Close()
	}
	stop()
	if err := <-ended; err != nil || len(failed) > 0 {
		t.Errorf("ended with %v, told %d times more", err, len(failed))
	}
	if p.String() != "tests at "+addr.String() {
		t.Errorf("it is called %s", p)
	}
}
