// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/sync/control"
)

// manager is the service manager that started the process, if it wants to be
// told: sd_notify(3), datagrams to a socket that the environment names. The zero
// value is told nothing.
type manager struct {
	socket string
	// watchdog is how long it waits for a sign of life before it ends the
	// process; 0: for ever.
	watchdog time.Duration
}

// managerOf reads the environment of process pid.
func managerOf(getenv func(string) string, pid int) (m manager, err error) {
	m.socket = getenv("NOTIFY_SOCKET")
	limit := getenv("WATCHDOG_USEC")
	if m.socket == "" || limit == "" {
		return m, nil
	}
	if who := getenv("WATCHDOG_PID"); who != "" && who != strconv.Itoa(pid) {
		return m, nil // meant for a parent, which passed it on
	}
	us, err := strconv.ParseInt(limit, 10, 64)
	m.watchdog = time.Duration(us) * time.Microsecond
	if err != nil || m.watchdog < time.Millisecond || m.watchdog/time.Microsecond != time.Duration(us) {
		return m, fmt.Errorf("WATCHDOG_USEC=%s in the environment: write a number of microseconds, 1000 or more", limit)
	}
	return m, nil
}

// tell sends one state, lines of NAME=VALUE.
func (m manager) tell(lines ...string) (err error) {
	if m.socket == "" {
		return nil
	}
	// A leading @ is the abstract namespace, for systemd and package net alike.
	conn, err := net.Dial("unixgram", m.socket)
	if err != nil {
		return fmt.Errorf("connect to NOTIFY_SOCKET: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("write to NOTIFY_SOCKET: %w", err)
	}
	return nil
}

// reloading says that the configuration is being read; READY=1 ends it. Since
// when is on the clock that the manager compares with.
func (m manager) reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	return m.tell("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// statusEvery is how often it is looked whether the status line is another.
const statusEvery = 5 * time.Second

// beating is a task of which it can be known whether its loop turns.
type beating interface {
	task.Task
	Beat(ctx context.Context) error
}

// notifyTask tells the service manager once that all the others are ready, then
// how things are, and, while those that can be asked answer, that the process
// lives.
type notifyTask struct {
	task.Readiness
	manager manager
	others  []task.Task
	status  func() string // one line
	log     *slog.Logger
}

func (*notifyTask) String() string { return "systemd notification" }

func (t *notifyTask) Run(ctx context.Context) error {
	if err := t.waitForOthers(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return t.manager.tell("STOPPING=1")
	}
	said := t.status()
	if err := t.manager.tell("READY=1", "STATUS="+said); err != nil {
		return err
	}
	t.SetReady()
	look := time.NewTicker(statusEvery)
	defer look.Stop()
	var dog <-chan time.Time // never, without a watchdog
	if t.manager.watchdog > 0 {
		ticker := time.NewTicker(t.manager.watchdog / 2)
		defer ticker.Stop()
		dog = ticker.C
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return t.manager.tell("STOPPING=1")
		case <-look.C:
			if now := t.status(); now != said {
				said = now
				err = t.manager.tell("STATUS=" + said)
			}
		case <-dog:
			err = t.signOfLife(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.log.Warn("the service manager does not hear from us", "error", err)
		}
	}
}

// waitForOthers returns when all are ready, or when ctx ends, and says meanwhile
// who is not.
func (t *notifyTask) waitForOthers(ctx context.Context) error {
	for _, other := range t.others {
		select {
		case <-other.Ready():
			continue
		default:
		}
		if err := t.manager.tell("STATUS=waiting for " + other.String()); err != nil {
			return err
		}
		select {
		case <-other.Ready():
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// signOfLife waits until every task that can be asked has answered, however
// long that takes: without a word from here the manager ends the process.
func (t *notifyTask) signOfLife(ctx context.Context) error {
	for _, other := range t.others {
		b, ok := other.(beating)
		if !ok {
			continue
		}
		late := time.AfterFunc(t.manager.watchdog/4, func() {
			t.log.Error("a task does not answer: the service manager will restart the daemon if it goes on so", "task", b.String())
		})
		err := b.Beat(ctx)
		late.Stop()
		if err != nil {
			return err
		}
	}
	return t.manager.tell("WATCHDOG=1")
}

// statusLine says in one line what the loop is about.
func statusLine(s control.Status) string {
	if waiting := s.Waiting(); len(waiting) > 0 {
		return "waiting for " + strings.Join(waiting, ", ")
	}
	line := fmt.Sprintf("%d services", s.Desired.Len())
	if n := len(s.Refused) + len(s.Report.Failed); n > 0 {
		line += fmt.Sprintf(", %d not served as desired: the log says why", n)
	}
	if s.Report.Err != nil {
		line = "nothing can be applied: " + strings.ReplaceAll(s.Report.Err.Error(), "\n", "; ")
	}
	return line
}
