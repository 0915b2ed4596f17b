// SPDX-License-Identifier: Apache-2.0

package task_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/waggle-lb/waggle/internal/task"
)

func TestAPulseIsFeltOnlyWhileTheLoopTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p task.Pulse
		felt := make(chan error, 1)
		feel := func(ctx context.Context) {
			go func() { felt <- p.Beat(ctx) }()
			synctest.Wait()
		}
		feel(t.Context())
		select {
		case err := <-felt:
			t.Fatalf("felt, with %v, before the loop turned", err)
		default:
		}
		<-p.Beats()
		if err := <-felt; err != nil {
			t.Error(err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		feel(ctx)
		cancel()
		if err := <-felt; !errors.Is(err, context.Canceled) {
			t.Errorf("a beat that was given up: %v, want %v", err, context.Canceled)
		}
		select {
		case <-p.Beats():
			t.Error("one that was given up is felt later")
		default:
		}
	})
}
