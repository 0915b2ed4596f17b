// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/waggle-lb/waggle/internal/task"
)

// reloadTask calls reload on every SIGHUP.
type reloadTask struct {
	task.Readiness
	log    *slog.Logger
	reload func()
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
			t.log.InfoContext(ctx, "SIGHUP: rereading the services")
			t.reload()
		}
	}
}

// notifyTask tells the service manager once that all the others are ready:
// sd_notify(3), a datagram to the socket that the environment names.
type notifyTask struct {
	task.Readiness
	socket string
	others []task.Task
}

func (*notifyTask) String() string { return "systemd notification" }

func (t *notifyTask) Run(ctx context.Context) (err error) {
	for _, other := range t.others {
		select {
		case <-other.Ready():
		case <-ctx.Done():
			return nil
		}
	}
	// A leading @ is the abstract namespace, for systemd and package net alike.
	conn, err := net.Dial("unixgram", t.socket)
	if err != nil {
		return fmt.Errorf("connect to NOTIFY_SOCKET: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("write to NOTIFY_SOCKET: %w", err)
	}
	t.SetReady()
	return nil
}
