// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/file"
)

// rules is a file of one service whose backends are given as to parseLines.
func rules(lines string) string {
	text := "-A -t 203.0.113.1:80 -s wrr\n"
	for _, word := range strings.Fields(lines) {
		n, w, ok := strings.Cut(word, "=")
		if !ok {
			w = "1"
		}
		text += fmt.Sprintf("-a -t 203.0.113.1:80 -r 192.0.2.%s:80 -m -w %s\n", n, w)
	}
	return text
}

// follower is a source at work on a real file. It holds what was delivered and
// logged.
type follower struct {
	t     *testing.T
	src   *file.Source
	ended chan error
	stop  context.CancelFunc

	mu    sync.Mutex
	snaps []*lb.Snapshot
	log   bytes.Buffer
}

func newFollower(t *testing.T, path string) *follower {
	t.Helper()
	f := &follower{t: t, ended: make(chan error, 1)}
	src, err := file.NewSource(file.SourceOptions{
		Path: path,
		Logger: slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
		Out: func(snap *lb.Snapshot) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.snaps = append(f.snaps, snap)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.src = src
	return f
}

// follow starts a source and waits for its first delivery. It ends with the
// test.
func follow(t *testing.T, path string) *follower {
	t.Helper()
	f := newFollower(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	f.stop = cancel
	go func() { f.ended <- f.src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.ended; err != nil {
			t.Errorf("run: %v, want nil", err)
		}
	})
	select {
	case <-f.src.Ready():
	case err := <-f.ended:
		f.ended <- nil
		t.Fatalf("run: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the first read never ended")
	}
	f.take()
	return f
}

// Write takes the log.
func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

// take returns the lines of the log since the last time.
func (f *follower) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.log.Reset()
	return strings.Split(strings.TrimSuffix(f.log.String(), "\n"), "\n")
}

// logged reports whether a line since the last time has these words.
func (f *follower) logged(words string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Contains(f.log.String(), words)
}

// delivered returns all snapshots so far.
func (f *follower) delivered() []*lb.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.snaps)
}

// states lists what was delivered, each as listed shows its one service.
func (f *follower) states() []string {
	var out []string
	for _, snap := range f.delivered() {
		for svc := range snap.All() {
			out = append(out, listed(svc))
		}
	}
	return out
}

// eventually waits until cond holds.
func (f *follower) eventually(what string, cond func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("never: %s; delivered %q, log:\n%s", what, f.states(), strings.Join(f.take(), "\n"))
		}
	}
}

// wantState waits until this is the last delivery.
func (f *follower) wantState(want string) {
	f.t.Helper()
	f.eventually("delivery of "+want, func() bool {
		all := f.states()
		return len(all) > 0 && all[len(all)-1] == want
	})
}

// wantLog waits for the last of the lines, and wants no others since the last
// time.
func (f *follower) wantLog(want ...string) {
	f.t.Helper()
	last := want[len(want)-1] + "\n"
	f.eventually("log line "+last, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return strings.HasSuffix(f.log.String(), last)
	})
	if diff := cmp.Diff(want, f.take()); diff != "" {
		f.t.Errorf("log (-want +got):\n%s", diff)
	}
}

// chance lets pass what a source takes to read a change, so that what must not
// happen would. Nothing that must happen depends on it.
func chance() { time.Sleep(200 * time.Millisecond) }

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// renameInto replaces a file as a careful editor does.
func renameInto(t *testing.T, path, text string) {
	t.Helper()
	beside := filepath.Join(filepath.Dir(path), ".new")
	writeFile(t, beside, text)
	must(t, os.Rename(beside, path))
}

// linkInto replaces a symbolic link as ln -sfn would if it were atomic.
func linkInto(t *testing.T, path, target string) {
	t.Helper()
	must(t, os.Symlink(target, path+"_tmp"))
	must(t, os.Rename(path+"_tmp", path))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
