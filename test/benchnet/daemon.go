// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// pinRoot is where daemons pin, each in waggle-bench-PID-NUMBER, PID being this process's.
const pinRoot = "/sys/fs/bpf"

// cleanPins runs `waggle cleanup`.
func cleanPins(o *options, pins string) error {
	out, err := command(o.waggle, "cleanup", "--pin-path", pins).CombinedOutput()
	if err != nil {
		return fmt.Errorf("waggle cleanup --pin-path %s: %w: run it by hand; it said %q", pins, err, out)
	}
	return nil
}

// removeStale removes the pins of benchmarks that were killed. Package netlab does that
// with their namespaces.
func removeStale(o *options) error {
	dirs, err := filepath.Glob(filepath.Join(pinRoot, "waggle-bench-*-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[2]); err == nil && !netlab.Alive(pid) {
			errs = append(errs, cleanPins(o, dir))
		}
	}
	return errors.Join(errs...)
}

// log takes what a daemon says; it may be read while the daemon runs.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startWaggle runs a daemon on the director, which leads the sockets of the director's
// control group, too.
func startWaggle(ctx context.Context, o *options, b *bed, all []service, args ...string) error {
	var err error
	if b.group, err = b.AddCgroup(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("waggle-bench-%d-", os.Getpid()))
	if err != nil {
		return err
	}
	b.close = append(b.close, func() error { return os.RemoveAll(dir) })
	rules := filepath.Join(dir, "rules")
	if err := os.WriteFile(rules, []byte(ipvsadmRules(all)), 0o600); err != nil {
		return err
	}
	pins := filepath.Join(pinRoot, filepath.Base(dir))
	b.close = append(b.close, func() error { return cleanPins(o, pins) })
	said := &log{}
	cmd := command(o.waggle, append([]string{"run", "--services", rules, "--pin-path", pins, "--dataplane", "ebpf",
		"--socket-lb", "all", "--cgroup", b.group.Path}, args...)...)
	cmd.Stderr = said
	p, err := b.Director.Start(cmd)
	if err != nil {
		return err
	}
	b.close = append(b.close, func() error { return p.Stop(stopTimeout) })
	deadline := time.Now().Add(readyTimeout)
	for !strings.Contains(said.String(), "ready") {
		select {
		case <-p.Done():
			return fmt.Errorf("waggle run: %w: %s", p.Wait(), tail([]byte(said.String())))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waggle run is not ready after %v: %s", readyTimeout, tail([]byte(said.String())))
		}
	}
	return nil
}
