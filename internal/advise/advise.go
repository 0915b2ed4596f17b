// SPDX-License-Identifier: Apache-2.0

package advise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// maxWarnings is how many VIPs of one round are named: a file of a thousand
// services on a machine without any of them is one mistake.
const maxWarnings = 10

// Adviser is the task that warns of each cause once, as soon as it is there,
// and again if it came back after it was mended. It looks at each new
// snapshot, when addresses or routes change, and every half minute.
type Adviser struct {
	task.Readiness
	log     *slog.Logger
	watcher *nlx.Watcher
	assigns bool
	wake    chan struct{}

	mu   sync.Mutex
	snap *lb.Snapshot // nil before the first; guarded by mu

	// For the goroutine of Run:
	known   map[cause]bool // what the last round found
	failure string         // the last complaint about not seeing
}

// New makes an adviser about the network namespace of the calling thread. assigns says
// that who serves assigns VIPs to the machine by itself.
func New(log *slog.Logger, assigns bool) (*Adviser, error) {
	w, err := nlx.NewWatcher(log)
	if err != nil {
		return nil, err
	}
	return &Adviser{log: log, watcher: w, assigns: assigns, wake: make(chan struct{}, 1)}, nil
}

// Close releases what New opened. Run must have returned.
func (a *Adviser) Close() error { return a.watcher.Close() }

// String returns "adviser".
func (*Adviser) String() string { return "adviser" }

// Observe takes what is to be served from now on. It does not wait; any
// goroutine may call it.
func (a *Adviser) Observe(snap *lb.Snapshot) {
	a.mu.Lock()
	a.snap = snap
	a.mu.Unlock()
	a.look()
}

func (a *Adviser) look() {
	select {
	case a.wake <- struct{}{}:
	default: // Run will look at what is there now
	}
}

// Run warns until ctx ends.
func (a *Adviser) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- a.watcher.RunRoutes(ctx, a.look) }()
	defer func() {
		cancel()
		<-followed
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-followed:
			followed <- nil
			return err
		case <-a.wake:
		}
		a.mu.Lock()
		snap := a.snap
		a.mu.Unlock()
		if snap == nil {
			continue
		}
		facts, err := a.facts(snap)
		a.complain(err)
		if err == nil {
			a.warn(Warnings(snap, facts))
		}
		a.SetReady() // advice that cannot be given keeps nothing from working
	}
}

// complain logs that the facts cannot be read, once.
func (a *Adviser) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
		if text != a.failure {
			a.log.Warn("cannot check addresses, routes and forwarding", "error", err)
		}
	}
	a.failure = text
}

// warn logs what was not there the last time.
func (a *Adviser) warn(all []Warning) {
	known := make(map[cause]bool, len(all))
	said := 0
	for _, w := range all {
		known[w.cause()] = true
		if a.known[w.cause()] {
			continue
		}
		if said++; said <= maxWarnings {
			a.log.Warn("services cannot be reached", "problem", w.Problem, "subject", w.Subject, "service", w.Service, "remedy", w.Remedy)
		}
	}
	if said > maxWarnings {
		a.log.Warn("more services cannot be reached for the same reasons", "warnings", said-maxWarnings)
	}
	a.known = known
}

func (a *Adviser) facts(snap *lb.Snapshot) (f Facts, err error) {
	state, err := a.watcher.Read()
	if err != nil {
		return f, err
	}
	f = Facts{Own: make(map[netip.Addr]bool), Routed: make(map[netip.Addr]bool), Forwards: make(map[lb.Family]bool)}
	for _, addr := range state.Addrs {
		f.Own[addr] = true
	}
	for svc := range snap.All() {
		for vip := range vipsOf(svc) {
			f.Own[vip] = f.Own[vip] || a.assigns
			if _, asked := f.Routed[vip]; asked || f.Own[vip] {
				continue
			}
			if f.Routed[vip], err = a.watcher.HasRoute(vip); err != nil {
				return f, err
			}
		}
	}
	for family, sysctl := range sysctls {
		if f.Forwards[family], err = isOn(sysctl); err != nil {
			return f, err
		}
	}
	return f, nil
}

// isOn reads a sysctl of the process's network namespace. One that is not
// there, on a kernel without IPv6, is off.
func isOn(sysctl string) (bool, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(sysctl, ".", "/")))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)) != "0", nil
}
