// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
)

// health logs when the API server fails a source and when it answers again, once
// each. Safe for concurrent use.
type health struct {
	log *slog.Logger

	mu      sync.Mutex
	failing map[string]bool // by resource; "" is the server as a whole. Guarded by mu
}

// observe takes the outcome of a request.
func (h *health) observe(ctx context.Context, resource string, err error) {
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		if h.failing[resource] || h.failing[""] {
			h.log.Info("the API server answers again", "resource", resource)
		}
		delete(h.failing, resource)
		delete(h.failing, "")
		return
	}
	about := ""
	if apierrors.ReasonForError(err) != "" { // it answered
		about = resource
	}
	if !h.failing[about] {
		h.log.Warn("the API server fails: what is known of it stays", "resource", resource, "error", err)
	}
	h.failing[about] = true
}

// quiet is for what client-go logs of what health logs once: at debug level.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, min(level, slog.LevelDebug))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = min(r.Level, slog.LevelDebug)
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

var klogOnce sync.Once

// redirect gives the process's klog, which client-go writes to, the logger of its
// first source, and as much to say as that takes: klog's verbosity N is slog's level
// -N.
func redirect(log *slog.Logger) {
	klogOnce.Do(func() {
		klog.SetSlogLogger(log)
		most := 0
		for most < 10 && log.Enabled(context.Background(), slog.Level(-most-1)) {
			most++
		}
		var level klog.Level
		_ = level.Set(strconv.Itoa(most)) // it is a number
	})
}
