// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// patience bounds every wait of these tests; nothing is asserted about time.
const patience = 20 * time.Second

// listener is a service manager.
type listener struct {
	*net.UnixConn
	t *testing.T
	manager
}

func newListener(t *testing.T) *listener {
	t.Helper()
	at := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	c, err := net.ListenUnixgram(at.Net, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &listener{c, t, manager{socket: at.Name, watchdog: 20 * time.Millisecond}}
}

// next is the next message.
func (l *listener) next() string {
	l.t.Helper()
	b := make([]byte, 1024)
	n, err := l.Read(b)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b[:n])
}

func (l *listener) wants(messages ...string) {
	l.t.Helper()
	for _, want := range messages {
		if got := l.next(); got != want {
			l.t.Fatalf("the service manager hears %q, want %q", got, want)
		}
	}
}

// turning is a task whose loop turns as often as it is allowed to.
type turning struct {
	task.Readiness
	task.Pulse
	allowed chan struct{}
}

func (*turning) String() string { return "mill" }

func (t *turning) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.allowed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.Beats():
		}
	}
}

// text is a log that is read while it is written.
type text struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *text) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *text) has(word string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.out.String(), word)
}

// start runs tasks until the test ends, or stop is called.
func start(t *testing.T, tasks ...task.Task) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- task.Run(ctx, slog.New(slog.DiscardHandler), tasks...) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func TestTheServiceManagerHearsOfLifeWhileTasksTurn(t *testing.T) {
	m, log := newListener(t), &text{}
	mill := &turning{allowed: make(chan struct{})}
	stop := start(t, mill, &notifyTask{
		manager: m.manager, others: []task.Task{mill}, status: func() string { return "grinding" },
		log: slog.New(slog.NewTextHandler(log, nil)),
	})
	m.wants("STATUS=waiting for mill")
	mill.SetReady()
	m.wants("READY=1\nSTATUS=grinding")
	for range 3 {
		mill.allowed <- struct{}{}
		m.wants("WATCHDOG=1")
	}
	for deadline := time.Now().Add(patience); !log.has("task=mill"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log does not name the task that does not turn")
		}
	}
	mill.allowed <- struct{}{}
	m.wants("WATCHDOG=1") // one for the turn, none while there was no other
	stop()
	m.wants("STOPPING=1")
}

func TestTheServiceManagerHearsOfAnEndBeforeReadiness(t *testing.T) {
	m, mill := newListener(t), &turning{}
	stop := start(t, mill, &notifyTask{manager: m.manager, others: []task.Task{mill}})
	m.wants("STATUS=waiting for mill")
	stop()
	m.wants("STOPPING=1")
}

func TestTheServiceManagerHearsOfAReload(t *testing.T) {
	m, done := newListener(t), make(chan struct{})
	hup := &reloadTask{log: slog.New(slog.DiscardHandler), manager: m.manager, reload: func() <-chan struct{} { return done }}
	start(t, hup)
	<-hup.Ready()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := m.next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("the service manager hears %q, want RELOADING=1 and when", got)
	}
	close(done)
	m.wants("READY=1")
}

func TestWithoutAServiceManagerNobodyIsTold(t *testing.T) {
	var m manager
	if err := errors.Join(m.tell("READY=1"), m.reloading()); err != nil {
		t.Error(err)
	}
}

func TestTheEnvironmentNamesTheServiceManager(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want manager
		err  string
	}{
		{env: nil},
		{env: map[string]string{"WATCHDOG_USEC": "1000000"}},
		{env: map[string]string{"NOTIFY_SOCKET": "/run/s"}, want: manager{socket: "/run/s"}},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, want: manager{"@s", 1500 * time.Millisecond}},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "1500000"}, want: manager{"@s", 1500 * time.Millisecond}},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, want: manager{socket: "@s"}},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "1m"}, err: "WATCHDOG_USEC=1m in the environment: write a number of microseconds"},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "0"}, err: "WATCHDOG_USEC=0"},
		{env: map[string]string{"NOTIFY_SOCKET": "@s", "WATCHDOG_USEC": "9223372036854775807"}, err: "WATCHDOG_USEC=9223372036854775807"},
	} {
		got, err := managerOf(func(name string) string { return tc.env[name] }, 7)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v: error %v, want %s", tc.env, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%v: %+v, %v; want %+v", tc.env, got, err, tc.want)
		}
	}
}

func TestTheStatusLineSaysHowThingsAre(t *testing.T) {
	desired, err := lb.NewSnapshot(&lb.Service{ID: lb.ServiceID{Name: "web", Family: lb.IPv4}, Scheduler: "rr"},
		&lb.Service{ID: lb.ServiceID{Name: "dns", Family: lb.IPv4}, Scheduler: "rr"})
	if err != nil {
		t.Fatal(err)
	}
	failed := map[lb.ServiceID]error{{Name: "web", Family: lb.IPv4}: errors.New("no room")}
	for want, s := range map[string]control.Status{
		"waiting for file a, file b": {Sources: []control.SourceStatus{{Name: "file a"}, {Name: "file b"}}},
		"2 services":                 {Desired: desired},
		"2 services, 1 not served as desired: the log says why":     {Desired: desired, Refused: failed},
		"2 services, 2 not served as desired: the log says why":     {Desired: desired, Refused: failed, Report: dataplane.Report{Failed: failed}},
		"nothing can be applied: map slots is full; it holds 9 now": {Desired: desired, Report: dataplane.Report{Err: errors.New("map slots is full\nit holds 9 now")}},
	} {
		if got := statusLine(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
