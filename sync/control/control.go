// SPDX-License-Identifier: Apache-2.0

// Package control holds the loop that makes a dataplane match what the sources
// want.
package control

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// The defaults of Options.
const (
	DefaultWindow   = 10 * time.Millisecond
	DefaultRetryMin = 100 * time.Millisecond
	DefaultRetryMax = 10 * time.Second
)

// Options of a Loop. Zero durations mean the defaults.
type Options struct {
	Dataplane dataplane.Dataplane
	Logger    *slog.Logger
	// Window is the least time from the end of one Apply to the start of the
	// next for a new state: what comes in it is applied together. The first
	// change after a pause waits for nothing. Negative is none.
	Window time.Duration
	// RetryMin is the pause after the first failure; it doubles up to RetryMax.
	RetryMin, RetryMax time.Duration
	// Observe, if it is set, is told from the goroutine of Run how long each Apply
	// took, whatever came of it.
	Observe func(took time.Duration)
}

// Status is what a Loop knows of itself. It must not be changed.
type Status struct {
	// Sources are all, in the order of their registration.
	Sources []SourceStatus
	// Desired is what the sources want together; nil before all delivered.
	Desired *lb.Snapshot
	// Refused are services that are not served as desired. One that the
	// dataplane does not support goes on as it was before, if it was there and
	// its VIPs are not another's now. One whose name or VIP an earlier source
	// owns is left out of Desired.
	Refused map[lb.ServiceID]error
	// Report is the outcome of the last Apply; zero before the first.
	Report dataplane.Report
	// Applies counts the calls of Apply, Incomplete those of them that left
	// something to retry. The last one ended at Applied, after Took.
	Applies, Incomplete uint64
	Applied             time.Time
	Took                time.Duration
	// Retries counts the Applies since Desired changed that were not complete.
	Retries int
	Progress
}

// Progress is how far a Loop is behind its sources. Queued is when the last delivery came,
// Overdue when the oldest one of those came that no state holds yet that was applied,
// Synced when one last was. A state is applied also if services in it failed. All are zero
// if there is none.
type Progress struct{ Queued, Overdue, Synced time.Time }

// SourceStatus is what a Loop knows of one source.
type SourceStatus struct {
	Name string
	// Delivered says that it did, at least once: until then nothing is applied.
	Delivered bool
	// Services is how many it wants.
	Services int
}

// Waiting returns the names of the sources that have not delivered yet.
func (s *Status) Waiting() (names []string) {
	for _, src := range s.Sources {
		if !src.Delivered {
			names = append(names, src.Name)
		}
	}
	return names
}

// Loop is the task that applies what sources deliver. It calls the
// dataplane's methods from the goroutine of Run only.
type Loop struct {
	task.Readiness
	task.Pulse
	opts Options
	wake chan struct{}

	mu      sync.Mutex
	sources []*source
	status  Status
	waiting []delivery // those that no applied state holds yet, the oldest first

	// For the goroutine of Run:
	admitted *lb.Snapshot // what Apply was given last; nil before the first
	// judged is what the dataplane was asked about last, unsupported what it said
	// no to.
	judged      *lb.Snapshot
	unsupported map[lb.ServiceID]error
	failures    map[lb.ServiceID]string // what was logged about failures
	failure     string                  // and about one of everything
}

// source is what one source delivered; nil before it did.
type source struct {
	name  string
	wants *lb.Snapshot
}

// delivery is one that waits to be applied.
type delivery struct {
	at      time.Time
	applied []func()
}

// New makes a loop. Its sources are registered by Source.
func New(opts Options) (*Loop, error) {
	if opts.Dataplane == nil || opts.Logger == nil {
		return nil, errors.New("control loop needs Dataplane and Logger")
	}
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{{&opts.Window, DefaultWindow}, {&opts.RetryMin, DefaultRetryMin}, {&opts.RetryMax, DefaultRetryMax}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	return &Loop{opts: opts, wake: make(chan struct{}, 1), unsupported: make(map[lb.ServiceID]error)}, nil
}

// String returns "control loop".
func (l *Loop) String() string { return "control loop" }

// Source registers a source and returns the function by which it delivers its
// state, always the whole of it. Nothing is applied before every registered
// source has delivered; so sources are registered before Run. Where two want
// the same name or VIP, the one registered first has it. The function never
// waits and may be called from any goroutine; the last call counts.
//
// applied are called once a state is applied that holds the delivery, or one of the
// source's that took its place: from the goroutine of Run, which waits for them, in
// the order of the deliveries. Services that fail do not put it off: they go on as
// they were, and one of them must not keep a whole machine from saying that it serves.
func (l *Loop) Source(name string) func(snap *lb.Snapshot, applied ...func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &source{name: name}
	l.sources = append(l.sources, s)
	return func(snap *lb.Snapshot, applied ...func()) {
		if snap == nil {
			snap = &lb.Snapshot{} // delivered: nothing
		}
		l.mu.Lock()
		s.wants = snap
		l.status.Queued = time.Now()
		l.waiting = append(l.waiting, delivery{l.status.Queued, applied})
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default: // Run will see this one, too
		}
	}
}

// Status returns the state of the loop. Any goroutine may call it.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Refused = maps.Clone(s.Refused)
	for _, src := range l.sources {
		s.Sources = append(s.Sources, SourceStatus{src.name, src.wants != nil, src.wants.Len()})
	}
	s.Progress = l.progress()
	return s
}

// Progress returns that of the status, for who asks often. Any goroutine may call it.
func (l *Loop) Progress() Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress()
}

// progress is for who holds mu.
func (l *Loop) progress() Progress {
	p := l.status.Progress
	if len(l.waiting) > 0 {
		p.Overdue = l.waiting[0].at
	}
	return p
}

// Run applies until ctx ends. What was applied stays in the kernel. It fails
// if no source is registered: that would delete every service.
func (l *Loop) Run(ctx context.Context) error {
	l.mu.Lock()
	none := len(l.sources) == 0
	l.mu.Unlock()
	if none {
		return errors.New("no source is registered")
	}
	var retry <-chan time.Time // nil while there is nothing to retry
	var pause time.Duration
	var open time.Time // when the window of the last Apply ends
	for {
		fresh := false
		select {
		case <-ctx.Done():
			return nil
		case <-l.Beats():
			continue
		case <-retry:
		case <-l.wake:
			fresh = true
			if !sleep(ctx, time.Until(open)) {
				return nil
			}
		}
		select {
		case <-l.wake: // whoever woke had stored before: it is part of this turn
			fresh = true
		default:
		}
		if fresh {
			pause = 0
		}
		complete, applied, err := l.reconcile(fresh)
		if err != nil {
			return err
		}
		if !applied {
			continue
		}
		open = time.Now().Add(l.opts.Window)
		retry = nil
		if complete {
			l.SetReady()
			continue
		}
		pause = min(max(2*pause, l.opts.RetryMin), l.opts.RetryMax)
		retry = time.After(pause)
	}
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// reconcile brings the dataplane to what the sources want now, if all have
// delivered. fresh says that one has delivered since the last time.
func (l *Loop) reconcile(fresh bool) (complete, applied bool, err error) {
	l.mu.Lock()
	if slices.ContainsFunc(l.sources, func(s *source) bool { return s.wants == nil }) {
		l.mu.Unlock()
		return false, false, nil
	}
	sources := make([]source, 0, len(l.sources))
	for _, s := range l.sources {
		sources = append(sources, *s)
	}
	held := len(l.waiting)
	l.mu.Unlock()

	desired, conflicts, err := merge(sources)
	if err != nil {
		return false, false, err
	}
	began := time.Now()
	admitted, refused, err := l.admit(desired, conflicts)
	report := dataplane.Report{Err: err}
	if err == nil {
		report = l.opts.Dataplane.Apply(admitted)
		l.admitted = admitted
	}
	complete = report.Err == nil && len(report.Failed) == 0
	took := time.Since(began)
	l.log(report, took)
	if l.opts.Observe != nil {
		l.opts.Observe(took)
	}

	l.mu.Lock()
	if fresh {
		l.status.Retries = 0
	}
	l.status.Applies++
	if !complete {
		l.status.Retries++
		l.status.Incomplete++
	}
	l.status.Applied, l.status.Took = began.Add(took), took
	l.status.Desired, l.status.Refused, l.status.Report = desired, refused, report
	var done []delivery
	if report.Err == nil {
		l.status.Synced = l.status.Applied
		done, l.waiting = l.waiting[:held], slices.Clone(l.waiting[held:])
	}
	l.mu.Unlock()
	for _, d := range done {
		for _, applied := range d.applied {
			applied()
		}
	}
	return complete, true, nil
}
