// SPDX-License-Identifier: Apache-2.0

// Package task runs the long-lived parts of a process together: each part is
// a Task, every goroutine belongs to one, and all of them end with one context.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Task is one long-lived part of the process.
type Task interface {
	// Run works until ctx is cancelled and then returns nil. It is called
	// once. nil before that means that nothing is left to do: the others go
	// on. An error ends the process.
	Run(ctx context.Context) error
	// Ready is closed once the task has done its first full work.
	Ready() <-chan struct{}
	// String names the task in logs and errors: "services file /etc/web.yaml".
	String() string
}

// Readiness implements Task's Ready for the type that embeds it. The zero
// value is not ready. Safe for concurrent use; must not be copied.
type Readiness struct {
	mu   sync.Mutex
	done chan struct{}
	set  bool
}

// Ready returns the channel that SetReady closes.
func (r *Readiness) Ready() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.channel()
}

// SetReady closes the channel of Ready. Calls after the first change nothing.
func (r *Readiness) SetReady() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.set {
		r.set = true
		close(r.channel())
	}
}

func (r *Readiness) channel() chan struct{} {
	if r.done == nil {
		r.done = make(chan struct{})
	}
	return r.done
}

// Run runs the tasks until ctx is cancelled, until the first of them fails,
// which cancels the others, or until all have ended by themselves. It returns
// after every task has: the first error, prefixed by the task's name, or nil.
// It logs each task's readiness, and once more when all are ready.
func Run(ctx context.Context, log *slog.Logger, tasks ...Task) error {
	watch, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { logReady(watch, log, tasks) })
	defer watcher.Wait()
	defer stop()

	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			err := t.Run(ctx)
			if err == nil || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
				return nil
			}
			return fmt.Errorf("%s: %w", t, err)
		})
	}
	return group.Wait()
}

// logReady returns when all tasks are ready, or when ctx ends.
func logReady(ctx context.Context, log *slog.Logger, tasks []Task) {
	var waiting sync.WaitGroup
	for _, t := range tasks {
		waiting.Go(func() {
			select {
			case <-t.Ready():
				log.DebugContext(ctx, "task ready", "task", t.String())
			case <-ctx.Done():
			}
		})
	}
	waiting.Wait()
	names := make([]string, 0, len(tasks))
	for _, t := range tasks {
		select {
		case <-t.Ready():
			names = append(names, t.String())
		default:
			return
		}
	}
	log.InfoContext(ctx, "ready", "tasks", names)
}
