// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
	"github.com/waggle-lb/waggle/sync/kube"
)

// scale is how many Services there are, of how many endpoints each.
type scale struct{ services, endpoints int }

var scales = []scale{{10_000, 10}, {1000, 1000}}

func (s scale) String() string {
	return fmt.Sprintf("%d services of %d endpoints", s.services, s.endpoints)
}

// agent is what `waggle run` has, in this process: from the API server to the maps.
// No program is attached.
type agent struct {
	dataplane.Dataplane
	b    *testing.B
	stop func()
	// began is when it was made, delivered when it knew all, programmed when the
	// kernel did.
	began, delivered, programmed time.Time

	// event is when the last watch event came, in nanoseconds since began; applied
	// gets the time that it took, at the end of the Apply that has it.
	event   atomic.Int64
	applied chan time.Duration
}

// RoundTrip notes when watches of EndpointSlices say something.
func (a *agent) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && r.URL.Query().Has("watch") && strings.HasSuffix(r.URL.Path, "/endpointslices") {
			resp.Body = &noted{resp.Body, a}
		}
		return resp, err
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type noted struct {
	io.ReadCloser
	a *agent
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.ReadCloser.Read(p)
	if k > 0 {
		n.a.event.CompareAndSwap(0, int64(time.Since(n.a.began)))
	}
	return k, err
}

// Apply tells how long an event took to get here and into the kernel.
func (a *agent) Apply(snap *lb.Snapshot) dataplane.Report {
	rep := a.Dataplane.Apply(snap)
	if rep.Err != nil || len(rep.Failed) > 0 {
		a.b.Errorf("apply: error %v, %d failed", rep.Err, len(rep.Failed))
	}
	if a.programmed.IsZero() {
		a.programmed = time.Now()
	}
	if at := a.event.Swap(0); at != 0 {
		select {
		case a.applied <- time.Since(a.began) - time.Duration(at):
		default:
		}
	}
	return rep
}

func startAgent(b *testing.B, kubeconfig string) *agent {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	config, err := kube.Config(kube.Connection{Kubeconfig: kubeconfig})
	check(b, err)
	a := &agent{b: b, began: time.Now(), applied: make(chan time.Duration, 1)}
	config.Wrap(a.wrap)
	pins := fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-scale", os.Getpid())
	a.Dataplane, err = ebpf.New(ebpf.Options{PinPath: pins, Log: log})
	check(b, err)
	loop, err := control.New(control.Options{Dataplane: a, Logger: log})
	check(b, err)
	deliver := loop.Source("API server")
	src, err := kube.New(kube.Options{
		Config: config, Log: log, NodeTimeout: time.Millisecond,
		Translation: kube.Translation{NodeName: "bench", NodePortAddresses: []string{"localhost"}},
		Deliver: func(d kube.Delivery) {
			if a.delivered.IsZero() {
				a.delivered = time.Now()
			}
			deliver(d.Snapshot)
		},
	})
	check(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { check(b, src.Run(ctx)) })
	running.Go(func() { check(b, loop.Run(ctx)) })
	<-loop.Ready()
	a.stop = func() {
		cancel()
		running.Wait()
		check(b, a.Close())
		_, err := ebpf.Cleanup(pins)
		check(b, err)
	}
	return a
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// From the start of a process to all Services in the kernel, and from the moment when
// it knows them all.
func BenchmarkColdStart(b *testing.B) {
	for _, s := range scales {
		b.Run(s.String(), func(b *testing.B) {
			api := shared.Start(b)
			ns := api.Namespace(b)
			populate(b, api, ns, s)
			var whole, kernel []time.Duration
			for b.Loop() {
				a := startAgent(b, api.Kubeconfig(b))
				whole, kernel = append(whole, a.programmed.Sub(a.began)), append(kernel, a.programmed.Sub(a.delivered))
				a.stop()
			}
			b.ReportMetric(float64(quantile(whole, 50).Milliseconds()), "ms-from-start")
			b.ReportMetric(float64(quantile(kernel, 50).Milliseconds()), "ms-from-full-caches")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// One endpoint comes or goes, 20 times a second, among 10,000 Services: from the watch
// event to the kernel.
func BenchmarkChange(b *testing.B) {
	api := shared.Start(b)
	ns := api.Namespace(b)
	populate(b, api, ns, scales[0])
	a := startAgent(b, api.Kubeconfig(b))
	defer a.stop()
	select {
	case <-a.applied: // of what came when the watch began
	default:
	}
	var took []time.Duration
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; b.Loop(); i++ {
		<-tick.C
		a.event.Store(0) // a bookmark perhaps
		change(b, api, ns, scales[0], i)
		took = append(took, <-a.applied)
	}
	for _, q := range []int{50, 99} {
		b.ReportMetric(float64(quantile(took, q).Microseconds()), fmt.Sprintf("µs-p%d", q))
	}
	b.ReportMetric(float64(slices.Max(took).Microseconds()), "µs-max")
	b.ReportMetric(0, "ns/op")
}

func quantile(all []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

// What a node's daemon takes with 10,000 services: memory, and of one CPU while nothing
// changes, and while 100 endpoints a second come and go.
func BenchmarkAgent(b *testing.B) {
	c := newCluster(b, options{})
	for _, n := range c.nodes[1:] {
		n.kill()
	}
	n, ns := c.nodes[0], c.api.Namespace(b)
	populate(b, c.api, ns, scales[0])
	c.settled(n, scales[0].services)
	const span = 20 * time.Second
	for b.Loop() {
		idle := n.cpu(b)
		time.Sleep(span)
		b.ReportMetric(percent(n.cpu(b)-idle, span), "%CPU-idle")
		busy, began, changes := n.cpu(b), time.Now(), 0
		tick := time.NewTicker(10 * time.Millisecond)
		for time.Since(began) < span {
			<-tick.C
			change(b, c.api, ns, scales[0], changes)
			changes++
		}
		tick.Stop()
		took := time.Since(began)
		b.ReportMetric(percent(n.cpu(b)-busy, took), "%CPU-changing")
		b.ReportMetric(float64(changes)/took.Seconds(), "changes/s")
		b.ReportMetric(float64(n.rss(b))/1024, "MiB-RSS")
	}
	b.ReportMetric(0, "ns/op")
}

func percent(cpu, of time.Duration) float64 { return 100 * cpu.Seconds() / of.Seconds() }

// settled waits until a node's kernel has so many services.
func (c *cluster) settled(n *node, services int) {
	c.t.Helper()
	deadline := time.Now().Add(5 * patience)
	for {
		out, err := n.output(exec.Command(waggle, "services", "-o", "json", "--pin-path", n.pins()))
		c.must(err)
		if strings.Count(out, `"family"`) >= services {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the kernel of %s has not %d services", n.name, services)
		}
		time.Sleep(time.Second)
	}
}

// cpu is what the daemon took in all; rss its memory in KiB.
func (n *node) cpu(b *testing.B) time.Duration {
	b.Helper()
	var threads int64
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", n.run.PID))
	check(b, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		check(b, err)
		var ran int64
		_, err = fmt.Sscan(string(text), &ran)
		check(b, err)
		threads += ran
	}
	return time.Duration(threads)
}

func (n *node) rss(b *testing.B) (kib int) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.run.PID))
	check(b, err)
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(after, &kib)
	check(b, err)
	return kib
}
