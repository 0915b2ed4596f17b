// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/maps/info"
)

// churnFor is how long services change under traffic; `make soak` makes it longer.
var churnFor = flag.Duration("churn", 6*time.Second, "how long services come and go under traffic")

const (
	churnServers  = 3
	churnServices = 40 // that come and go
	churnEvery    = 100 * time.Millisecond
	churnClients  = 6 // of each node and kind
	firstPort     = 1000
	fewestSamples = 20
	endedAfter    = 2 // seconds that a finished flow stays
)

var (
	churnPorts      = []uint16{8080, 8081, 8082, 8083} // of each server
	churnSchedulers = []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh"}
)

// churn is a daemon whose services change all the time, with traffic.
type churn struct {
	*scene
	rng             *rand.Rand
	done, refused   atomic.Int64
	failed          atomic.Int64
	first           sync.Once // the first failure is shown
	stop            atomic.Bool
	workers         sync.WaitGroup
	kept            []net.Conn
	rewritten       int
	gauges          gauges
	base            fill
	steady, comings []netip.AddrPort
}

// TestNothingGrowsWhileServicesComeAndGo rewrites the file of services all the
// time: services come and go, those that stay change backends, weights,
// schedulers. Real connections go on meanwhile. Nothing breaks one, nothing
// grows, and in the end all is given back.
func TestNothingGrowsWhileServicesComeAndGo(t *testing.T) {
	c := newChurn(t)
	c.traffic()
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	pause := max(*churnFor/600, 200*time.Millisecond) // between samples
	begin, sampled := time.Now(), time.Now()
	for now := begin; (now.Sub(begin) < *churnFor || len(c.gauges.at) < fewestSamples) && !t.Failed(); now = <-tick.C {
		c.write(c.rules())
		c.rewritten++
		if now.Sub(sampled) >= pause {
			sampled = now
			c.forgetSoon()
			c.sample(now.Sub(begin))
		}
	}
	c.write(c.resting())
	c.end()
	t.Logf("%d connections, %d refused by services that were not there, %d failed; the file was written %d times, and read %.0f times",
		c.done.Load(), c.refused.Load(), c.failed.Load(), c.rewritten, c.scrape().sum("waggle_applies_total", "result=complete"))
	if c.done.Load() == 0 || c.refused.Load() == 0 || c.rewritten < 10 {
		t.Error("it shows nothing")
	}
	c.eventually("all is given back", func() error {
		c.forgetSoon()
		return c.fill().differs(c.base)
	})
	c.wantAudit()
	report, err := c.gauges.judge()
	t.Log(strings.Join(report, "\n"))
	if err != nil {
		t.Error(err)
	}
}

// end ends the traffic.
func (c *churn) end() {
	c.stop.Store(true)
	c.workers.Wait()
	for _, conn := range c.kept {
		conn.Close()
	}
}

func newChurn(t *testing.T) *churn {
	c := &churn{scene: newScene(t, netlab.Options{Prefix: "churn", Clients: 2, Servers: churnServers}), rng: rand.New(rand.NewPCG(1, 2))}
	c.args = []string{"--metrics-bind-address", metricsAddr}
	for i, srv := range c.Servers() {
		for _, port := range churnPorts {
			c.serve(srv, fmt.Sprintf("s%d", i), port)
		}
	}
	for _, n := range c.Clients() { // a client's port is free a second after its connection, not a minute
		if err := n.SetSysctl("net/ipv4/tcp_tw_reuse", "1"); err != nil {
			t.Fatal(err)
		}
	}
	c.steady = vips
	for i := range churnServices {
		for _, vip := range vips {
			c.comings = append(c.comings, netip.AddrPortFrom(vip.Addr(), uint16(firstPort+i)))
		}
	}
	c.write(c.resting())
	c.start()
	c.forgetSoon()
	c.base = c.fill()
	return c
}

// forgetSoon has finished flows end at once, as far as that goes, so that what
// they held is seen to come back; until a larger configuration says again what
// the daemon was told.
func (c *churn) forgetSoon() {
	c.t.Helper()
	m := c.pin("meta")
	defer m.Close()
	clocks, err := info.ReadClocks(m)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, state := range []bpf.LBFlowState{
		bpf.LBFlowStateSTATE_FIN_WAIT, bpf.LBFlowStateSTATE_TIME_WAIT, bpf.LBFlowStateSTATE_CLOSE,
		bpf.LBFlowStateSTATE_CLOSE_WAIT, bpf.LBFlowStateSTATE_LAST_ACK, bpf.LBFlowStateSTATE_UDP,
	} {
		clocks.Timeouts[state] = endedAfter
	}
	if err := clocks.Put(m); err != nil {
		c.t.Fatal(err)
	}
}

// resting are the rules between which the services change.
func (c *churn) resting() string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for i, vip := range c.steady {
		c.service(&b, fmt.Sprintf("steady%d", i), vip, "rr", map[bool]string{true: "always", false: "never"}[i == 0], c.backends(vip)[:2])
	}
	return b.String()
}

// rules has each of the services that come and go with even odds. Those that
// stay have always somebody who takes connections.
func (c *churn) rules() string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	scheduler := func() string { return churnSchedulers[c.rng.IntN(len(churnSchedulers))] }
	for i, vip := range c.steady {
		some := c.some(c.backends(vip), 1)
		c.service(&b, fmt.Sprintf("steady%d", i), vip, scheduler(), map[bool]string{true: "always", false: "never"}[i == 0], some)
	}
	for i, vip := range c.comings {
		if c.rng.IntN(2) == 0 {
			continue
		}
		c.service(&b, fmt.Sprintf("coming%d", i), vip, scheduler(), map[bool]string{true: "always", false: "never"}[i%5 == 0], c.some(c.backends(vip), 0))
	}
	return b.String()
}

// backends are all that there may be, of the family of the VIP.
func (c *churn) backends(vip netip.AddrPort) (all []netip.AddrPort) {
	for _, n := range c.Servers() {
		for _, port := range churnPorts {
			all = append(all, netip.AddrPortFrom(n.Addr(vip.Addr().Is6()), port))
		}
	}
	return all
}

// some picks at least so many.
func (c *churn) some(all []netip.AddrPort, least int) []netip.AddrPort {
	c.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:least+c.rng.IntN(len(all)-least)]
}

func (c *churn) service(b *strings.Builder, name string, vip netip.AddrPort, scheduler, masquerade string, backends []netip.AddrPort) {
	fmt.Fprintf(b, "- {name: %s, scheduler: %s, masquerade: %s, frontends: [\"%s/TCP\", \"%[4]s/UDP\"], backends: [", name, scheduler, masquerade, vip)
	for _, k := range backends {
		fmt.Fprintf(b, "{address: %q, weight: %d}, ", k, 1+c.rng.IntN(4))
	}
	b.WriteString("]}\n")
}

// traffic begins connections that last, and workers that open one after the
// other: to the services that stay, which always answer, and to the others.
func (c *churn) traffic() {
	c.t.Cleanup(c.end)
	for _, n := range c.Clients() {
		for i := range churnClients {
			c.lasting(n, c.steady[i%2])
			c.worker(func(*rand.Rand) error {
				_, err := c.visit(n, c.steady[i%2])
				return err
			})
			c.worker(func(*rand.Rand) error {
				_, err := ask(n, c.steady[i%2])
				return err
			})
			c.worker(func(rng *rand.Rand) error {
				connected, err := c.visit(n, c.comings[rng.IntN(len(c.comings))])
				if !connected && errors.Is(err, syscall.ECONNREFUSED) {
					c.refused.Add(1)
					return nil
				}
				return err
			})
		}
	}
}

// lasting opens a connection that is used all the time.
func (c *churn) lasting(from *netlab.Node, vip netip.AddrPort) {
	conn, _, err := connect(from, vip)
	if err != nil {
		c.t.Fatal(err)
	}
	c.kept = append(c.kept, conn)
	c.worker(func(*rand.Rand) error {
		return errors.Join(conn.SetDeadline(soon()), echo(conn, random(2000)))
	})
}

// worker calls f over and over, with a pause.
func (c *churn) worker(f func(*rand.Rand) error) {
	rng := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
	c.workers.Go(func() {
		for !c.stop.Load() {
			if err := f(rng); err != nil {
				c.failed.Add(1)
				c.first.Do(func() { c.t.Errorf("the first failure, after %d connections: %v", c.done.Load(), err) })
			}
			c.done.Add(1)
			time.Sleep(time.Duration(10+rng.IntN(40)) * time.Millisecond)
		}
	})
}

// visit opens a connection, uses it for a while and closes it.
func (c *churn) visit(from *netlab.Node, vip netip.AddrPort) (connected bool, err error) {
	conn, _, err := connect(from, vip)
	if err != nil {
		return false, fmt.Errorf("connect to %v: %w", vip, err)
	}
	defer conn.Close()
	for range 3 {
		if err := echo(conn, random(2000)); err != nil {
			return true, fmt.Errorf("connection to %v: %w", vip, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true, nil
}
