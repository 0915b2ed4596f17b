// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"net"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/httpd"
	"github.com/waggle-lb/waggle/internal/metrics"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/sync/control"
)

const metricsFlag = "metrics-bind-address"

// listenMetrics takes the address of --metrics-bind-address; nil: there is none.
func listenMetrics(flags *runFlags) (net.Listener, error) {
	if !flags.metricsAddr.IsValid() {
		return nil, nil
	}
	return httpd.Listen("--"+metricsFlag, flags.metricsAddr)
}

// metricsTasks are the task that serves metrics at l, none if that is nil.
func metricsTasks(e *env, l net.Listener, dp *ebpf.Dataplane, loop *control.Loop, log *slog.Logger) []task.Task {
	if l == nil {
		return nil
	}
	v, err := e.version()
	if err != nil {
		log.Warn("metrics do not say which version this is", "error", err)
	}
	h := metrics.NewHandler(metrics.Options{
		Dataplane: dp, Loop: loop.Status, Reasons: e.reasons(), Log: log,
		Build: metrics.Build{Version: v.Version, Revision: v.Commit, Go: v.Go},
	})
	return []task.Task{&httpd.Server{Name: "metrics", Listener: l, Handler: h, Log: log}}
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
