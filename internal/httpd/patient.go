// SPDX-License-Identifier: Apache-2.0

package httpd

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/internal/task"
)

// retryAfter is kube-proxy's.
const retryAfter = 5 * time.Second

// Patient is the task that answers at an address which another process may still have: it
// tries every five seconds. It is ready once it has tried: others need not wait for it.
type Patient struct {
	task.Readiness
	// Name says in logs what is served, Flag is what named the address.
	Name, Flag string
	Addr       netip.AddrPort
	Handler    http.Handler
	Log        *slog.Logger
	// Failed, if it is set, is told why it does not answer, each reason once until it
	// does.
	Failed func(error)
}

// String returns "healthz at 0.0.0.0:10256".
func (p *Patient) String() string { return p.Name + " at " + p.Addr.String() }

// Run answers until ctx ends.
func (p *Patient) Run(ctx context.Context) error {
	said := ""
	for {
		l, err := Listen(p.Flag, p.Addr)
		p.SetReady()
		if err == nil {
			said = ""
			err = (&Server{Name: p.Name, Listener: l, Handler: p.Handler, Log: p.Log}).Run(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			p.Log.ErrorContext(ctx, "no HTTP is served: trying again", "what", p.Name, "every", retryAfter, "error", err)
			if p.Failed != nil {
				p.Failed(err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter):
		}
	}
}
