// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// Mode says what becomes of what kube-proxy left, once everything was applied.
type Mode string

// The modes.
const (
	Keep   Mode = "keep"   // it stays, and goes on with its connections
	Remove Mode = "remove" // removed once no connection needs it
	Force  Mode = "force"  // removed at once
)

// Modes are all.
func Modes() []string { return []string{string(Keep), string(Remove), string(Force)} }

// How often is looked: while there is something, and while there is nothing.
const (
	lookEvery  = 10 * time.Second
	quietEvery = time.Minute
)

// tellEvery is how often the log says that connections still go on.
const tellEvery = 10 * time.Minute

// Options of a Watch.
type Options struct {
	Mode Mode
	Log  *slog.Logger
	// Served is what the sources want; nil before they have said.
	Served func() *lb.Snapshot
	// Applied is closed when all of it was applied.
	Applied <-chan struct{}
	// Behind tells the dataplane.
	Behind func(dataplane.Behind) error
	// Other says whether another dataplane of waggle's translates by IPVS.
	Other func() bool
}

// Status is what a Watch knows. Its fields are never nil.
type Status struct {
	// Items and Kept are as in Found.
	Items []string `json:"items"`
	Kept  []string `json:"kept"`
	// Connections go on through them.
	Connections int  `json:"connections"`
	Mode        Mode `json:"mode"`
	// Removed says that this process has removed what was there.
	Removed bool `json:"removed"`
}

// Watch is the task that looks for what kube-proxy left, tells the dataplane, and
// removes it if it is to.
type Watch struct {
	task.Readiness
	opts Options
	find func(*lb.Snapshot) (*Found, error) // Look, but in tests
	end  func(*Found) error                 // Found.Remove

	mu     sync.Mutex
	status Status // guarded by mu

	// For the goroutine of Run:
	told     time.Time         // when the log last said that connections go on
	failures map[string]string // what was logged last of an error, by what failed
	back     bool              // it came back after it was removed: somebody else is at work
}

// New looks for the first time, before anything is applied. That it cannot tell is
// logged, and no error: nothing that is served depends on it.
func New(opts Options) *Watch {
	look := func(snap *lb.Snapshot) (*Found, error) { return Look(snap, opts.Other()) }
	return newWatch(opts, look, (*Found).Remove)
}

func newWatch(opts Options, find func(*lb.Snapshot) (*Found, error), end func(*Found) error) *Watch {
	w := &Watch{opts: opts, find: find, end: end, failures: make(map[string]string), status: Status{Items: []string{}, Kept: []string{}, Mode: opts.Mode}}
	if f := w.look(); f != nil && len(f.Items) > 0 {
		opts.Log.Info("kube-proxy's rules are here: connections through them go on, new ones are ours", "found", f.Items, "connections", f.Live)
	}
	return w
}

func (*Watch) String() string { return "what kube-proxy left" }

// Status returns what it knows; any goroutine may call it.
func (w *Watch) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run looks until ctx ends, at once when everything is applied.
func (w *Watch) Run(ctx context.Context) error {
	w.SetReady()
	applied := w.opts.Applied
	for {
		every := quietEvery
		if s := w.Status(); len(s.Items) > 0 || s.Connections > 0 {
			every = lookEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-applied:
			applied = nil
			if len(w.Status().Items) > 0 && w.opts.Mode == Keep {
				w.opts.Log.Info("kube-proxy's rules stay: `waggle cleanup --kube-proxy` removes them, or --kube-proxy-leftovers remove", "flag", "--kube-proxy-leftovers")
			}
		case <-time.After(every):
		}
		f := w.look()
		if f == nil || applied != nil || len(f.Items) == 0 || w.opts.Mode == Keep {
			continue
		}
		if w.remove(f) {
			w.look() // and tell
		}
	}
}

// look returns nil if it could not, or not tell the dataplane.
func (w *Watch) look() *Found {
	f, err := w.find(w.opts.Served())
	if err == nil {
		err = w.opts.Behind(f.Behind)
	}
	if !w.good("what kube-proxy left cannot be found", err) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Items, w.status.Kept, w.status.Connections = append([]string{}, f.Items...), append([]string{}, f.Kept...), f.Live
	return f
}

// remove reports whether it did.
func (w *Watch) remove(f *Found) bool {
	if w.Status().Removed {
		if !w.back {
			w.back = true
			w.opts.Log.Error("kube-proxy's rules have come back: it still runs; they stay, stop it and start waggle again", "found", f.Items)
		}
		return false
	}
	if err := f.Check(); err != nil && w.opts.Mode != Force {
		if now := time.Now(); now.Sub(w.told) >= tellEvery {
			w.told = now
			w.opts.Log.Info("kube-proxy's rules are removed when their last connection ends", "connections", f.Live, "flag", "--kube-proxy-leftovers force removes them now")
		}
		return false
	}
	if !w.good("kube-proxy's rules cannot be removed", w.end(f)) {
		return false
	}
	w.mu.Lock()
	w.status.Removed = true
	w.mu.Unlock()
	w.opts.Log.Info("removed what kube-proxy left", "removed", f.Items, "kept", f.Kept, "connections", f.Live)
	return true
}

// good logs an error, once as long as it is the same.
func (w *Watch) good(what string, err error) bool {
	text := ""
	if err != nil {
		text = fmt.Sprintf("%s: %v", what, err)
		if text != w.failures[what] {
			w.opts.Log.Error("taking over from kube-proxy", "error", text)
		}
	}
	w.failures[what] = text
	return err == nil
}

// ParseMode reads a mode.
func ParseMode(text string) (Mode, error) {
	if !slices.Contains(Modes(), text) {
		return "", fmt.Errorf("%q: write one of %s", text, strings.Join(Modes(), ", "))
	}
	return Mode(text), nil
}
