// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/internal/health"
	"github.com/waggle-lb/waggle/internal/httpd"
	"github.com/waggle-lb/waggle/internal/metrics"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
	"github.com/waggle-lb/waggle/sync/kube"
)

// servers are what the daemon answers by HTTP, and who tells them what.
type servers struct {
	flags    *listenFlags
	log      *slog.Logger
	families []lb.Family
	proxy    *health.Proxy
	healthz  net.Listener // nil: it has no address, or waits for one
	metrics  net.Listener // the same

	// With an API server; nil without:
	checks *health.Checks
	kube   *metrics.Kube
	source *kube.Source
	config func() any // what GET /configz answers
	choice choice     // of the dataplane
	birth  sync.Once
}

// newServers takes addresses, if what cannot have its own is to end the daemon. progress
// is that of a loop which begins later.
func newServers(e *env, flags *runFlags, progress func() control.Progress, log *slog.Logger) (*servers, error) {
	s := &servers{flags: &flags.listen, log: log, families: health.Families()}
	o := health.Options{Families: s.families, Progress: func() (overdue, synced time.Time) {
		p := progress()
		return p.Overdue, p.Synced
	}}
	if flags.services == "" {
		names := make([]string, 0, len(s.families))
		for _, f := range s.families {
			names = append(names, health.FamilyName(f))
		}
		s.kube = metrics.NewKube(metrics.KubeOptions{Families: names, Progress: progress, Build: e.metricsBuild(log)})
		s.config = flags.kube.proxy.configz
		kube.ObserveRequests(s.kube)
		o.Answered, o.Stale = s.kube.Answered, 2*flags.kube.proxy.settings.SyncPeriod
	}
	s.proxy = health.NewProxy(o)
	if s.kube != nil {
		s.checks = health.NewChecks(health.ChecksOptions{Families: s.families, Healthy: s.proxy.Healthy, Log: log, Failed: s.checkFailed})
	} else {
		s.proxy.SetEligible(true) // nobody says otherwise
	}
	return s, s.listen()
}

func (s *servers) listen() error {
	if !s.flags.hardFail {
		return nil
	}
	for _, a := range []struct {
		flag string
		addr netip.AddrPort
		to   *net.Listener
	}{{healthzFlag, s.flags.healthzAddr, &s.healthz}, {metricsFlag, s.flags.metricsAddr, &s.metrics}} {
		if !a.addr.IsValid() {
			continue
		}
		l, err := httpd.Listen("--"+a.flag, a.addr)
		if err != nil {
			return errors.Join(err, s.close())
		}
		*a.to = l
	}
	return nil
}

// close gives up the addresses.
func (s *servers) close() error {
	return errors.Join(closeListener(s.healthz), closeListener(s.metrics))
}

// tasks answer. opts are what metrics are of.
func (s *servers) tasks(opts metrics.Options) (out []task.Task) {
	opts.Kube, opts.Profiling, opts.Config = s.kube, s.flags.profiling, s.config
	if a := s.flags.metricsAddr; a.IsValid() {
		out = append(out, s.server("metrics", metricsFlag, a, s.metrics, metrics.NewHandler(opts), "FailedToStartMetricServer"))
	}
	if a := s.flags.healthzAddr; a.IsValid() {
		out = append(out, s.server("healthz", healthzFlag, a, s.healthz, s.proxy.Handler(), "FailedToStartProxierHealthcheck"))
	}
	if s.checks != nil {
		out = append(out, s.checks)
	}
	return out
}

// server is a task that answers at l, or at addr once it can be had; reason is of the Event
// that says it cannot.
func (s *servers) server(name, flag string, addr netip.AddrPort, l net.Listener, h http.Handler, reason string) task.Task {
	if l != nil {
		return &httpd.Server{Name: name, Listener: l, Handler: h, Log: s.log}
	}
	return &httpd.Patient{Name: name, Flag: "--" + flag, Addr: addr, Handler: h, Log: s.log, Failed: func(err error) {
		if s.source != nil {
			node := s.source.Node()
			s.source.Tell(kube.Event{Object: node, Action: "StartWaggle", Reason: reason, Text: fmt.Sprintf("node %s: %v", node.Name, err)})
		}
	}}
}

// checkFailed tells who looks at the Service.
func (s *servers) checkFailed(c health.Check, err error) {
	s.source.Tell(kube.Event{
		Object: kube.Object{APIVersion: "v1", Kind: "Service", Namespace: c.Namespace, Name: c.Name, UID: c.UID},
		Action: "Listen", Reason: "FailedToStartServiceHealthcheck",
		Text: fmt.Sprintf("node %s failed to start the health check on port %d: %v", s.source.Node().Name, c.Port, err),
	})
}

// tellService tells who looks at a Service of the API server.
func (s *servers) tellService(id lb.ServiceID, reason, text string) {
	if s.source != nil {
		s.source.TellService(id, reason, fmt.Sprintf("dataplane %s: %s", s.choice.name, text)) // the same on all nodes: one Event
	}
}

// wrote is told of each write to the kernel.
func (s *servers) wrote(took time.Duration) {
	if s.kube != nil {
		s.kube.Wrote(took)
	}
}

// deliver takes what an API server says: what is of the machine counts at once, what is of
// services once apply has them in the kernel.
func (s *servers) deliver(apply func(snap *lb.Snapshot, applied ...func())) func(kube.Delivery) {
	return func(d kube.Delivery) {
		s.birth.Do(func() {
			node := s.source.Node()
			s.source.Tell(kube.Event{Object: node, Normal: true, Action: "StartWaggle", Reason: "Starting", Text: "waggle forwards what Services say on node " + node.Name})
			s.source.Tell(kube.Event{
				Object: node, Normal: !s.choice.fellBack(), Action: "StartWaggle", Reason: "Dataplane",
				Text: fmt.Sprintf("node %s: dataplane %s: %s", node.Name, s.choice.name, s.choice.why),
			})
		})
		s.proxy.SetEligible(d.Eligible)
		s.kube.Changed(d.Services, d.Slices)
		snap, nodePorts := d.Snapshot, d.Snapshot.Node().NodePorts
		d.Snapshot = nil // who waits is not to hold it: while nothing can be applied many wait
		apply(snap, func() { s.applied(d, nodePorts) })
	}
}

func (s *servers) applied(d kube.Delivery, nodePorts []netip.Prefix) {
	now := time.Now()
	s.kube.Applied(d.Services, d.Slices)
	for _, t := range d.Triggers {
		if slices.Contains(s.families, t.Family) {
			s.kube.Programmed(health.FamilyName(t.Family), now.Sub(t.At))
		}
	}
	for _, f := range s.families {
		n := d.NoLocal[f]
		s.kube.SetNoLocal(health.FamilyName(f), n.Internal, n.External)
	}
	checks := make([]health.Check, 0, len(d.HealthChecks))
	for _, c := range d.HealthChecks {
		checks = append(checks, health.Check{Namespace: c.Service.Namespace, Name: c.Service.Name, UID: c.Service.UID, Family: c.Family, Port: c.Port, Local: c.Local})
	}
	s.checks.Set(checks, nodePorts)
}
