// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/waggle-lb/waggle/internal/task"
)

// reloadTask calls reload on every SIGHUP, and tells the service manager when
// what that returns is closed.
type reloadTask struct {
	task.Readiness
	log     *slog.Logger
	manager manager
	reload  func() (done <-chan struct{})
}

func (*reloadTask) String() string { return "SIGHUP" }

func (t *reloadTask) Run(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	t.SetReady()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		t.log.InfoContext(ctx, "SIGHUP: rereading the services")
		err := t.manager.reloading()
		select {
		case <-ctx.Done():
			return nil
		case <-t.reload():
		}
		if err == nil {
			err = t.manager.tell("READY=1")
		}
		if err != nil {
			t.log.Warn("the service manager does not hear from us", "error", err)
		}
	}
}
