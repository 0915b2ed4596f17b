// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/waggle-lb/waggle/internal/filewatch"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// SourceOptions say what a Source reads and where to.
type SourceOptions struct {
	Options
	// Path of the file. It may be, or lead through, symbolic links.
	Path string
	// Logger gets every error of a refused file.
	Logger *slog.Logger
	// Out gets each new state, in order, from the goroutine of Run. A snapshot
	// shares the pointers of unchanged services with the one before.
	Out func(*lb.Snapshot)
}

// Source is the task that reads a file at its start and after each change. A
// file that is refused, or goes missing, changes nothing: the last good state
// stays.
type Source struct {
	task.Readiness
	opts   SourceOptions
	reload chan struct{}

	mu    sync.Mutex
	asked []chan struct{} // by calls of Reload, to be closed; guarded by mu

	// For the goroutine of Run:
	last    *lb.Snapshot
	content []byte // what last was made of
	refused string // the last complaint, so that it is not repeated
}

// NewSource makes a source. It touches no file.
func NewSource(opts SourceOptions) (*Source, error) {
	if opts.Path == "" || opts.Out == nil || opts.Logger == nil {
		return nil, errors.New("file source needs Path, Logger and Out")
	}
	if opts.DefaultScheduler != "" {
		if _, err := sched.Find(opts.DefaultScheduler); err != nil {
			return nil, fmt.Errorf("default scheduler: %w", err)
		}
	}
	return &Source{opts: opts, reload: make(chan struct{}, 1)}, nil
}

// String returns "services file PATH".
func (s *Source) String() string { return "services file " + s.opts.Path }

// Reload makes Run read the file, changed or not, and complain about it again
// if it is refused: what SIGHUP is for. It does not wait: done is closed when
// the file was read, or refused. Any goroutine may call it at any time.
func (s *Source) Reload() (done <-chan struct{}) {
	c := make(chan struct{})
	s.mu.Lock()
	s.asked = append(s.asked, c)
	s.mu.Unlock()
	select {
	case s.reload <- struct{}{}:
	default: // one is waiting already, and will read what is there now
	}
	return c
}

// Run delivers the file's services, then follows its changes until ctx ends.
// It fails if the first read does, or if the file cannot be watched.
func (s *Source) Run(ctx context.Context) error {
	w, err := filewatch.New(s.opts.Path)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Update(); err != nil {
		return err
	}
	if err := s.read(); err != nil {
		return err
	}
	s.SetReady()
	return w.Follow(ctx, filewatch.Turns{
		Changed: func() (bool, error) { return s.refresh(w, false), nil },
		Asked:   s.reload,
		Answer:  func() bool { return s.answer(w) },
		Disturbed: func(err error) {
			s.opts.Logger.Warn("watching the services file is disturbed", "path", s.opts.Path, "error", err)
		},
	})
}

// refresh reads the file after the first time. asked says that somebody wants
// to know the outcome, even if it is as before. It returns true when the file must
// be read again unasked, since it could not be watched.
func (s *Source) refresh(w *filewatch.Watch, asked bool) (again bool) {
	if err := w.Update(); err != nil {
		s.outcome(err, asked)
		return true
	}
	s.outcome(s.read(), asked)
	return false
}

// answer is refresh for those who asked before it.
func (s *Source) answer(w *filewatch.Watch) (again bool) {
	s.mu.Lock()
	asked := s.asked
	s.asked = nil
	s.mu.Unlock()
	again = s.refresh(w, true)
	for _, c := range asked {
		close(c)
	}
	return again
}

// outcome logs how reading went, unless it went as the last time.
func (s *Source) outcome(err error, asked bool) {
	if err == nil {
		if s.refused != "" {
			s.opts.Logger.Info("services file is good again", "path", s.opts.Path)
		}
		s.refused = ""
		return
	}
	if err.Error() == s.refused && !asked {
		return
	}
	s.refused = err.Error()
	list := []error{err}
	if all := (*Errors)(nil); errors.As(err, &all) {
		list = all.Unwrap()
		if all.More > 0 {
			list = append(list, fmt.Errorf("%s: and %d more errors", s.opts.Path, all.More))
		}
	}
	for _, one := range list {
		s.opts.Logger.Error("services file refused", "error", one)
	}
	s.opts.Logger.Error("the last good services stay", "path", s.opts.Path, "services", s.last.Len())
}

// read delivers the file's services if they are not those of the last read.
func (s *Source) read() error {
	data, err := os.ReadFile(s.opts.Path)
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	if s.last != nil && bytes.Equal(data, s.content) {
		return nil
	}
	cfg, err := Parse(s.opts.Path, data, s.opts.Options)
	if err != nil {
		return err
	}
	next, err := lb.NewSnapshot(Order(s.last, cfg.Services)...)
	if err != nil {
		return fmt.Errorf("%s: %w", s.opts.Path, err)
	}
	first := s.last == nil
	diff := s.last.Compare(next)
	s.last, s.content = next, data
	if !first && diff.Empty() {
		return nil
	}
	s.opts.Logger.Info("services read", "path", s.opts.Path, "format", cfg.Format.String(), "services", next.Len(),
		"added", len(diff.Added), "changed", len(diff.Changed), "removed", len(diff.Removed))
	s.opts.Out(next)
	return nil
}
