// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/httpd"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// Check is a Service whose load balancers ask at a port of each machine whether it has
// endpoints there.
type Check struct {
	Namespace, Name, UID string
	Family               lb.Family
	Port                 uint16
	// Local is how many endpoints the machine has.
	Local int
}

// name tells checks apart.
type name struct {
	namespace, name string
	family          lb.Family
}

func (c *Check) key() name { return name{c.Namespace, c.Name, c.Family} }

// ChecksOptions are those of Checks.
type ChecksOptions struct {
	// Families are those that the machine has: others are not served.
	Families []lb.Family
	// Healthy says whether the proxy is well.
	Healthy func() bool
	Log     *slog.Logger
	// Failed is told why a port cannot be had, each reason once until it can.
	Failed func(Check, error)
	// Addrs returns the machine's addresses; nil asks the kernel.
	Addrs func() ([]netip.Addr, error)
}

// lookAgain is how often what failed is tried again, and the machine's addresses looked at.
const lookAgain = 5 * time.Second

// Checks is the task that answers at health check node ports.
type Checks struct {
	task.Readiness
	opts ChecksOptions
	wake chan struct{}

	mu        sync.Mutex
	checks    map[name]Check // guarded by mu
	nodePorts []netip.Prefix // guarded by mu

	// For the goroutine of Run:
	open    map[netip.AddrPort]*port
	said    map[netip.AddrPort]string // why it is not open
	serving sync.WaitGroup
}

// port is an address at which one check is answered.
type port struct {
	of       name
	listener net.Listener
	server   *http.Server
	ended    chan struct{} // closed once nobody answers any more
}

// NewChecks makes a task that answers nothing yet.
func NewChecks(o ChecksOptions) *Checks {
	if o.Addrs == nil {
		o.Addrs = machine
	}
	return &Checks{opts: o, wake: make(chan struct{}, 1), open: make(map[netip.AddrPort]*port), said: make(map[netip.AddrPort]string)}
}

// String returns "health check node ports".
func (c *Checks) String() string { return "health check node ports" }

// Set says which checks there are, and in which networks the machine's addresses are that
// serve node ports: all, if a network of the family is of length 0. Answers change at once,
// ports soon. It never waits, and may be called from any goroutine.
func (c *Checks) Set(checks []Check, nodePorts []netip.Prefix) {
	next := make(map[name]Check, len(checks))
	for _, k := range checks {
		if slices.Contains(c.opts.Families, k.Family) {
			next[k.key()] = k
		}
	}
	c.mu.Lock()
	c.checks, c.nodePorts = next, nodePorts
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run answers until ctx ends.
func (c *Checks) Run(ctx context.Context) error {
	c.SetReady()
	defer c.serving.Wait()
	defer func() {
		for at := range c.open {
			c.close(at)
		}
	}()
	for {
		var again <-chan time.Time // never while there is nothing to look after
		if c.sync(ctx) > 0 {
			again = time.After(lookAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-again:
		}
	}
}

// sync opens and closes ports, and returns how many checks there are. Ports are closed
// first: another Service may have the port now.
func (c *Checks) sync(ctx context.Context) int {
	c.mu.Lock()
	checks, nodePorts := c.checks, c.nodePorts
	c.mu.Unlock()
	want := make(map[netip.AddrPort]Check, len(checks))
	addrs, err := c.addresses(nodePorts)
	if err != nil {
		c.opts.Log.ErrorContext(ctx, "health check node ports stay where they are", "error", err)
		return len(checks)
	}
	for _, k := range checks {
		for _, a := range addrs[k.Family] {
			at := netip.AddrPortFrom(a, k.Port)
			// the API server gives a port to one Service; while it moves from one to another
			// both may have it
			if other, twice := want[at]; !twice || k.compare(&other) < 0 {
				want[at] = k
			}
		}
	}
	for at, p := range c.open {
		if k, ok := want[at]; !ok || k.key() != p.of || p.over() {
			c.close(at)
		}
	}
	for at := range c.said {
		if _, ok := want[at]; !ok {
			delete(c.said, at)
		}
	}
	for at, k := range want {
		if c.open[at] == nil {
			c.tryOpen(ctx, at, k)
		}
	}
	return len(checks)
}

func (c *Check) compare(d *Check) int {
	return cmp.Or(cmp.Compare(c.Namespace, d.Namespace), cmp.Compare(c.Name, d.Name))
}

// addresses returns where the ports of each family are served.
func (c *Checks) addresses(nodePorts []netip.Prefix) (map[lb.Family][]netip.Addr, error) {
	out := make(map[lb.Family][]netip.Addr)
	some := false
	for _, p := range nodePorts {
		if f := lb.FamilyOf(p.Addr()); p.Bits() == 0 {
			out[f] = []netip.Addr{p.Addr()}
		} else {
			some = true
		}
	}
	if !some {
		return out, nil
	}
	all, err := c.opts.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, f := range c.opts.Families {
		if len(out[f]) > 0 {
			continue
		}
		for _, a := range all {
			if lb.FamilyOf(a) == f && slices.ContainsFunc(nodePorts, func(p netip.Prefix) bool { return p.Contains(a) }) {
				out[f] = append(out[f], a)
			}
		}
	}
	return out, nil
}

// machine returns the addresses of this network namespace, without those that mean nothing
// without a device's name.
func machine() (out []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		p, err := netip.ParsePrefix(n.String())
		if a := p.Addr().Unmap(); err == nil && !a.IsLinkLocalUnicast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (c *Checks) tryOpen(ctx context.Context, at netip.AddrPort, k Check) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, at.String())
	if err != nil {
		c.failed(at, k, err)
		return
	}
	delete(c.said, at)
	p := &port{of: k.key(), listener: l, server: httpd.NewServer(c.answer(k.key()), c.opts.Log), ended: make(chan struct{})}
	c.open[at] = p
	c.serving.Go(func() {
		defer close(p.ended)
		if err := p.server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			c.opts.Log.Error("a health check node port does not answer any more", "address", at.String(), "error", err)
		}
	})
	c.opts.Log.DebugContext(ctx, "health check node port opened", "namespace", k.Namespace, "service", k.Name, "address", at.String())
}

// failed says so once. That the machine does not have the address yet, or not any more, is
// no news: it comes and goes.
func (c *Checks) failed(at netip.AddrPort, k Check, err error) {
	if errors.Is(err, syscall.EADDRNOTAVAIL) || c.said[at] == err.Error() {
		return
	}
	c.said[at] = err.Error()
	c.opts.Log.Error("health check node port not opened: trying again", "namespace", k.Namespace, "service", k.Name,
		"address", at.String(), "every", lookAgain, "error", err)
	c.opts.Failed(k, err)
}

func (p *port) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// close ends connections, too: who asks must learn that nobody is there.
func (c *Checks) close(at netip.AddrPort) {
	p := c.open[at]
	delete(c.open, at)
	if err := errors.Join(p.listener.Close(), p.server.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
		c.opts.Log.Warn("close a health check node port", "address", at.String(), "error", err)
	}
	c.opts.Log.Debug("health check node port closed", "namespace", p.of.namespace, "service", p.of.name, "address", at.String())
}

// answer is for any path and method: load balancers are told a port, and each has a
// favourite.
func (c *Checks) answer(of name) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		local := c.checks[of].Local // none of one that has just gone
		c.mu.Unlock()
		healthy := c.opts.Healthy()
		head(w)
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
		code := http.StatusServiceUnavailable
		if local > 0 && healthy {
			code = http.StatusOK
		}
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}",
			of.namespace, of.name, local, healthy)
	})
}
