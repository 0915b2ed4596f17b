// SPDX-License-Identifier: Apache-2.0

package task_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/waggle-lb/waggle/internal/task"
)

// part is a task that tests steer: it becomes ready when told and ends with
// what fail holds.
type part struct {
	task.Readiness
	name      string
	fail      chan error
	cancelled chan struct{}
	// result is returned on cancel.
	result error
}

func newPart(name string) *part {
	return &part{name: name, fail: make(chan error, 1), cancelled: make(chan struct{})}
}

func (p *part) Run(ctx context.Context) error {
	select {
	case err := <-p.fail:
		return err
	case <-ctx.Done():
		close(p.cancelled)
		return p.result
	}
}

func (p *part) String() string { return p.name }

func TestReadinessStartsOpenAndClosesOnce(t *testing.T) {
	var r task.Readiness
	before := r.Ready()
	select {
	case <-before:
		t.Fatal("ready before SetReady")
	default:
	}
	r.SetReady()
	r.SetReady()
	select {
	case <-before:
	default:
		t.Fatal("the channel that was handed out before SetReady is still open")
	}
	<-r.Ready()

	var late task.Readiness
	late.SetReady()
	select {
	case <-late.Ready():
	default:
		t.Fatal("not ready although SetReady came before the first Ready")
	}
}

func TestRunReturnsFirstErrorAndCancelsAll(t *testing.T) {
	boom := errors.New("boom")
	a, b := newPart("a"), newPart("b")
	b.fail <- boom
	err := task.Run(t.Context(), slog.New(slog.DiscardHandler), a, b)
	if !errors.Is(err, boom) || err.Error() != "b: boom" {
		t.Errorf("got %v, want b: boom", err)
	}
	select {
	case <-a.cancelled:
	default:
		t.Error("Run returned before the other task was cancelled")
	}
}

func TestRunReturnsNilOnCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, b := newPart("a"), newPart("b")
	b.result = context.Canceled
	cancel()
	if err := task.Run(ctx, slog.New(slog.DiscardHandler), a, b); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestRunKeepsErrorsOfTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := newPart("a")
	a.result = errors.New("close the map")
	cancel()
	if err := task.Run(ctx, slog.New(slog.DiscardHandler), a); err == nil || err.Error() != "a: close the map" {
		t.Errorf("got %v, want a: close the map", err)
	}
}

func TestRunGoesOnWithoutATaskThatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a, b := newPart("a"), newPart("b")
		ended := make(chan error, 1)
		a.fail <- nil
		go func() { ended <- task.Run(ctx, slog.New(slog.DiscardHandler), a, b) }()
		synctest.Wait()
		select {
		case <-b.cancelled:
			t.Fatal("the second task was cancelled because the first was done")
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want nil", err)
		}
	})
}

func TestRunLogsReadyOnlyWhenAllAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		ctx, cancel := context.WithCancel(t.Context())
		a, b := newPart("a"), newPart("b")
		ended := make(chan error, 1)
		go func() { ended <- task.Run(ctx, log, a, b) }()
		a.SetReady()
		synctest.Wait()
		if out.Len() > 0 {
			t.Errorf("logged before all were ready: %s", out.String())
		}
		b.SetReady()
		synctest.Wait()
		if !strings.Contains(out.String(), `msg=ready tasks="[a b]"`) {
			t.Errorf("the log does not say that a and b are ready: %q", out.String())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRunDoesNotCallReadyWhoNeverWas(t *testing.T) {
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	a, b := newPart("a"), newPart("b")
	a.SetReady()
	cancel()
	if err := task.Run(ctx, slog.New(slog.NewTextHandler(&out, nil)), a, b); err != nil {
		t.Error(err)
	}
	if out.Len() > 0 {
		t.Errorf("logged: %s", out.String())
	}
}
