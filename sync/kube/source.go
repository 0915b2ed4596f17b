// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// DefaultNodeTimeout is kube-proxy's.
const DefaultNodeTimeout = 30 * time.Second

// Options of a Source.
type Options struct {
	Translation
	// Config is how to reach the API server; function Config makes one.
	Config *rest.Config
	// Deliver gets each new state, in order, from the goroutine of Run.
	Deliver func(Delivery)
	// Log gets what happens, and what client-go logs.
	Log *slog.Logger
	// NodeTimeout is how long the first delivery waits, when all else is there, for
	// this machine's Node to have an address, and in mode NodeCIDR those of its
	// pods; 0: DefaultNodeTimeout. What comes later is taken up then.
	NodeTimeout time.Duration
}

// Delivery is a state of what the API server says.
type Delivery struct {
	// Snapshot shares the pointers of unchanged services with the one before; it is that
	// one if nothing in it changed.
	Snapshot *lb.Snapshot
	Facts
}

// Source is the task that follows an API server. While that cannot be reached, what
// is known of it stays.
type Source struct {
	task.Readiness
	opts     Options
	queue    *queue
	watchers []*watcher
	reporter *reporter
	began    time.Time

	// For the goroutine of Run:
	store *Store
	last  *lb.Snapshot // nil before the first delivery
	// Which full lists there were.
	services, slices, ranges bool
}

// New makes a source. It does not reach out yet.
func New(o Options) (*Source, error) {
	if o.Config == nil || o.Deliver == nil || o.Log == nil {
		return nil, errors.New("source of an API server needs Config, Deliver and Log")
	}
	if o.NodeTimeout == 0 {
		o.NodeTimeout = DefaultNodeTimeout
	}
	store, err := NewStore(o.Translation)
	if err != nil {
		return nil, err
	}
	o.Translation = store.t
	redirect(o.Log)
	c, err := newClients(o.Config)
	if err != nil {
		return nil, fmt.Errorf("client of API server %s: %w", o.Config.Host, err)
	}
	s := &Source{opts: o, queue: newQueue(), store: store, began: time.Now()}
	s.reporter = newReporter(c.events, o.NodeName, o.Log)
	s.watchers = s.newWatchers(c)
	return s, nil
}

// String returns "API server https://192.0.2.1:6443".
func (s *Source) String() string { return "API server " + s.opts.Config.Host }

// Tell sends an Event, if the API server takes it. It never waits, and may be called from
// any goroutine.
func (s *Source) Tell(e Event) { s.reporter.tell(e) }

// TellService sends an Event about the Service that a service of the snapshot is of, if
// it is there. It never waits, and may be called from any goroutine.
func (s *Source) TellService(id lb.ServiceID, reason, text string) {
	namespace, rest, _ := strings.Cut(id.Name, "/")
	name, _, _ := strings.Cut(rest, ":")
	s.queue.put(func(s *Source) {
		if e := s.store.services[types.NamespacedName{Namespace: namespace, Name: name}]; e != nil && e.svc != nil {
			s.Tell(Event{Object: e.svc.object, Action: "Serve", Reason: reason, Text: cut(text)})
		}
	})
}

// Node is this machine's.
func (s *Source) Node() Object { return s.opts.NodeObject() }

// Run delivers what the API server's objects say once all are known, then follows
// their changes until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	for _, w := range s.watchers {
		others.Go(func() { w.run(ctx) })
	}
	others.Go(func() { s.reporter.run(ctx) })

	var patience <-chan time.Time // runs while nothing but the Node is missing
	late := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.queue.wake:
		case <-patience:
			late = true
			s.opts.Log.Warn("this machine's Node is not known: going on without its addresses, zone and pod CIDRs",
				"node", s.opts.NodeName, "waited", s.opts.NodeTimeout)
		}
		for _, c := range s.queue.take() {
			c(s)
		}
		if s.last != nil || s.listed() && (late || s.settled()) {
			patience = nil
			s.deliver()
			continue
		}
		s.opts.Log.Debug("waiting for what is not there yet", "services", s.services, "endpointslices", s.slices,
			"servicecidrs", s.ranges, "nodes", s.settled())
		if s.listed() && patience == nil {
			patience = time.After(s.opts.NodeTimeout)
		}
	}
}

func (s *Source) listed() bool { return s.services && s.slices && s.ranges }

func (s *Source) settled() bool { return s.opts.Translation.settled(&s.store.node) }

// deliver sends what changed since the last time.
func (s *Source) deliver() {
	next, problems, err := s.store.Flush()
	if err != nil {
		s.opts.Log.Error("the last good services stay", "error", err)
	}
	if s.last == nil && next != nil {
		s.advise(next)
	}
	facts, news := s.store.Facts()
	if next != nil && (news || next != s.last) {
		// What was triggered before anybody was here to take it up was not late.
		facts.Triggers = slices.DeleteFunc(facts.Triggers, func(t Trigger) bool { return !t.At.After(s.began) })
		s.last = next
		s.opts.Deliver(Delivery{next, facts})
		s.SetReady()
	}
	s.reporter.report(problems)
}
