// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"net"

	"github.com/waggle-lb/waggle/internal/metrics"
	"github.com/waggle-lb/waggle/sync/control"
)

// metricsOptions are what metrics are of.
func metricsOptions(e *env, s *serving, loop *control.Loop, log *slog.Logger) metrics.Options {
	return metrics.Options{
		Dataplane: s, Loop: loop.Status, Reasons: e.reasons(), Log: log, Build: e.metricsBuild(log), Mode: s.name, Reason: s.reason,
	}
}

func (e *env) metricsBuild(log *slog.Logger) metrics.Build {
	v, err := e.version()
	if err != nil {
		log.Warn("metrics do not say which version this is", "error", err)
	}
	return metrics.Build{Version: v.Version, Revision: v.Commit, Go: v.Go, Modified: v.Modified}
}

// closeListener gives up an address; the server that had it did so already.
func closeListener(l net.Listener) error {
	if l == nil {
		return nil
	}
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
