// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/httpd"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// statusPath is what `waggle status` asks the daemon for, by HTTP at its socket.
const statusPath = "/status"

// answerWithin bounds a question to the daemon, which answers at once unless it
// is writing very much.
const answerWithin = 10 * time.Second

// socketOf is where the daemon of a pin path listens below dir: by the last
// part of the path, for people, and a hash of the whole.
func socketOf(dir, pinPath string) string {
	pinPath = absolute(pinPath)
	sum := fnv.New32a()
	sum.Write([]byte(pinPath)) // a hash takes everything
	name := filepath.Base(pinPath)
	return filepath.Join(dir, fmt.Sprintf("%.32s-%08x.sock", name, sum.Sum32())) // the kernel takes 107 bytes
}

// absolute is a pin path, however it is written.
func absolute(pinPath string) string {
	if abs, err := filepath.Abs(pinPath); err == nil {
		return abs
	}
	return pinPath
}

// listenAgent takes the daemon's socket; nil, and a warning, if that cannot be.
// Nothing that is served depends on it.
func listenAgent(e *env, pinPath string, log *slog.Logger) net.Listener {
	l, err := httpd.ListenUnix(socketOf(e.runDir, pinPath))
	if err != nil {
		log.Warn("`waggle status` will show what the pins say alone", "error", err)
		return nil
	}
	return l
}

// agentTasks are the task that answers at l, none if that is nil.
func agentTasks(e *env, l net.Listener, a about, log *slog.Logger) []task.Task {
	if l == nil {
		return nil
	}
	p := cli.Process{PID: os.Getpid(), Started: e.now()}
	if v, err := e.version(); err == nil {
		p.Version, p.Commit = v.Version, v.Commit
	}
	return []task.Task{&httpd.Server{Name: "status", Listener: l, Handler: agentHandler(p, a, log), Log: log}}
}

// about are those whom the daemon asks about itself.
type about struct {
	dataplane func() (dataplane.Status, error)
	loop      func() control.Status
	// chosen is asked with what is wanted.
	chosen    func(wanted *lb.Snapshot) cli.Chosen
	leftovers func() takeover.Status
}

func aboutDaemon(dp *serving, told *told, leaving *handover, loop *control.Loop, watch *takeover.Watch) about {
	return about{
		dataplane: dp.Status, loop: loop.Status, leftovers: watch.Status,
		chosen: func(wanted *lb.Snapshot) cli.Chosen {
			return cli.Chosen{Why: dp.why, Otherwise: told.Otherwise(wanted), Leaving: leaving.Status()}
		},
	}
}

func agentHandler(p cli.Process, a about, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		s, err := a.dataplane()
		loop := a.loop()
		answer(w, log, cli.NewAgent(p, loop, &s, a.chosen(loop.Desired), a.leftovers()), err)
	})
	mux.HandleFunc("GET "+desiredPath, func(w http.ResponseWriter, _ *http.Request) {
		d, err := desiredOf(p, a.loop())
		answer(w, log, d, err)
	})
	return mux
}

// answer writes v, or the error.
func answer(w http.ResponseWriter, log *slog.Logger, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Debug("an answer was not taken", "error", err)
	}
}

// askStatus asks the daemon of a pin path how it is. Its answer may have fields
// that this version does not know.
func (e *env) askStatus(ctx context.Context, pinPath string) (*cli.Agent, error) {
	body, err := e.ask(ctx, pinPath, statusPath)
	if err != nil {
		return nil, err
	}
	a := &cli.Agent{}
	if err := json.Unmarshal(body, a); err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return a, nil
}

// errNoDaemon says that nobody answers at a socket.
var errNoDaemon = errors.New("nobody listens")

// ask asks the daemon of a pin path; the error is errNoDaemon if there is none.
func (e *env) ask(ctx context.Context, pinPath, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	socket := socketOf(e.runDir, pinPath)
	var d net.Dialer
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://waggle"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w at %s", errNoDaemon, socket)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the daemon at %s: %w", socket, err)
	}
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("ask the daemon at %s: %w", socket, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the daemon at %s answers: %s", socket, strings.TrimSpace(string(body)))
	}
	return body, nil
}
