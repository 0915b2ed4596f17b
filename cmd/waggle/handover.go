// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// leaving is a dataplane that served before another one does.
type leaving interface {
	// Follow has it take nothing new, from the first time on, and tells it what is
	// wanted now.
	Follow(snap *lb.Snapshot) error
	// Tasks have to run until it is closed.
	Tasks() []task.Task
	// Live is how many connections go on through it.
	Live() (int, error)
	// Close releases the process's handles; End also removes it, and names what that
	// was.
	Close() error
	End() (removed []string, err error)
}

// How often connections are counted: not so often that it takes more than a
// twentieth of the time.
const (
	countEvery = 2 * time.Second
	countShare = 20
)

// handover takes over from another dataplane once this one is complete: nothing
// begins there any more, and it is removed when its last connection has ended, or when
// its time is over.
type handover struct {
	task.Readiness
	name  string // of the one that leaves
	old   leaving
	drain time.Duration
	ready <-chan struct{} // the other one is complete
	loop  func() control.Status
	log   *slog.Logger

	mu     sync.Mutex
	status cli.Leaving // guarded by mu
	ended  bool        // guarded by mu: old is closed
}

// handover makes the task, nil if there is no other dataplane.
func (s *serving) handover(flags *runFlags, loop *control.Loop, log *slog.Logger) *handover {
	if s.old == nil {
		return nil
	}
	return &handover{name: s.former, old: s.old, drain: flags.drain, ready: loop.Ready(), loop: loop.Status, log: log, status: cli.Leaving{Name: s.former}}
}

// tasks are the task itself, if there is one.
func (h *handover) tasks() []task.Task {
	if h == nil {
		return nil
	}
	return []task.Task{h}
}

func (h *handover) String() string { return "handover from dataplane " + h.name }

// Status is nil of a nil handover: there was no other dataplane.
func (h *handover) Status() *cli.Leaving {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.status
	return &s
}

// leaves reports whether the other dataplane may still have connections.
func (h *handover) leaves() bool { return h != nil && !h.Status().Removed }

// close releases it, if the task has not.
func (h *handover) close() error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil
	}
	h.ended = true
	return h.old.Close()
}

func (h *handover) Run(ctx context.Context) error {
	h.log.Info("another dataplane serves until this one is complete", "leaving", h.name)
	select {
	case <-ctx.Done():
		return nil
	case <-h.ready:
	}
	within, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	beside.Go(func() {
		// its logger would say that all is ready
		if err := task.Run(within, slog.New(slog.DiscardHandler), h.old.Tasks()...); err != nil {
			h.log.Error("the dataplane that leaves is not looked after", "leaving", h.name, "error", err)
		}
	})
	if !h.outlast(ctx) {
		return nil
	}
	stop()
	beside.Wait()
	return h.end()
}

// outlast returns true when the other one may be removed, false if ctx ended.
func (h *handover) outlast(ctx context.Context) bool {
	var told *lb.Snapshot
	var until time.Time
	failed := ""
	for {
		err := h.follow(&told)
		began := time.Now()
		if err == nil && until.IsZero() {
			until = began.Add(h.drain)
			h.SetReady()
			h.log.Info("this dataplane serves what begins; connections of the other go on through it", "leaving", h.name, "until", until.Format(time.RFC3339), "flag", "--drain-timeout")
		}
		live := 0
		if err == nil {
			live, err = h.old.Live()
		}
		if err != nil && err.Error() != failed {
			h.log.Error("taking over from another dataplane: tried again", "leaving", h.name, "error", err)
		}
		failed = ""
		if err != nil {
			failed = err.Error()
		} else {
			h.note(live, until)
			if live == 0 {
				return true
			}
		}
		if !until.IsZero() && time.Now().After(until) {
			h.log.Warn("connections of another dataplane end: their time is over", "leaving", h.name, "connections", live, "flag", "--drain-timeout")
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(max(countEvery, countShare*time.Since(began))):
		}
	}
}

// follow tells it what is wanted, if that is another.
func (h *handover) follow(told **lb.Snapshot) error {
	want := h.loop().Desired
	if want == *told {
		return nil
	}
	if err := h.old.Follow(want); err != nil {
		return err
	}
	*told = want
	return nil
}

func (h *handover) note(live int, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	utc := until.UTC()
	h.status.Connections, h.status.Until = live, &utc
}

func (h *handover) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return errors.New("it was closed")
	}
	h.ended = true
	removed, err := h.old.End()
	if err != nil {
		h.log.Error("another dataplane is not removed: run `waggle cleanup` when this daemon has ended, or start it again", "leaving", h.name, "error", err)
		return nil
	}
	h.status.Removed, h.status.Connections = true, 0
	h.log.Info("removed another dataplane", "leaving", h.name, "removed", removed)
	return nil
}
