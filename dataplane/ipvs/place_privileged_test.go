// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// TestOneOwnerAndOneProcess: who has another pin path neither takes IPVS nor removes
// it, and one process works there at a time; reading takes neither.
func TestOneOwnerAndOneProcess(t *testing.T) {
	dir := t.TempDir()
	place := func(owner string) Place {
		return Place{Owner: owner, Lock: filepath.Join(dir, filepath.Base(owner)+".lock")}
	}
	own, other := place("/sys/fs/bpf/my own"), place("/sys/fs/bpf/other")
	inNamespace(t, func(*netlab.Namespace) error {
		if _, err := OpenReader(own); own.Exists() || !errors.Is(err, dataplane.ErrNotRunning) {
			t.Errorf("before anything is there: %v, %v", own.Exists(), err)
		}
		d, err := New(Options{Place: own, Log: slog.New(slog.DiscardHandler), TCP: 77 * time.Second})
		if err != nil {
			return err
		}
		serve(t, d, web("2 1"))
		if c, err := d.machine.GetConfig(); err != nil || c.TimeoutTCP != 77*time.Second {
			t.Errorf("timeouts %+v, %v", c, err)
		}
		if _, err := New(Options{Place: own, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrLocked) {
			t.Errorf("a second process: %v", err)
		}
		if _, err := New(Options{Place: other, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "pin path /sys/fs/bpf/my own") {
			t.Errorf("another pin path: %v", err)
		}
		if removed, err := Cleanup(other); err != nil || removed != nil || other.Exists() {
			t.Errorf("cleanup of another pin path: %v, %v", removed, err)
		}
		if _, err := Cleanup(own); !errors.Is(err, ErrLocked) {
			t.Errorf("cleanup beside a process: %v", err)
		}
		r, err := OpenReader(own)
		if err != nil {
			return err
		}
		snap, err := r.Read()
		if err != nil || snap.Len() != 1 {
			t.Errorf("read %v, %v", snap, err)
		}
		if c, err := r.Counters(); err != nil || len(c.Backends) != 2 {
			t.Errorf("counters %+v, %v", c, err)
		}
		if err := errors.Join(r.Close(), d.Close()); err != nil {
			return err
		}

		l, err := Leave(own)
		if err != nil {
			return err
		}
		if n, err := l.Live(); n != 0 || err != nil || l.Follow(&lb.Snapshot{}) != nil {
			t.Errorf("%d connections, %v", n, err)
		}
		if _, err := Leave(own); !errors.Is(err, ErrLocked) {
			t.Errorf("a second one that leaves: %v", err)
		}
		if removed, err := l.End(); err != nil || len(removed) != 4 || own.Exists() {
			t.Errorf("the end: %v, %v", removed, err)
		}
		return nil
	})
}
