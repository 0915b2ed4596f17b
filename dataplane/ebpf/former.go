// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"time"

	"github.com/waggle-lb/waggle/internal/task"
)

// DefaultDrain is how long connections go on that a version with another layout
// of maps has made.
const DefaultDrain = time.Hour

// drainer ends what a version with another layout left, when its time is over.
// Before that its programs stand behind ours: who is not known here is passed
// to them.
type drainer struct {
	task.Readiness
	d     *Dataplane
	after time.Duration
}

func (*drainer) String() string { return "connections of another layout" }

func (t *drainer) Run(ctx context.Context) error {
	t.SetReady()
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	if !t.d.drains() {
		return nil
	}
	t.d.log.Info("connections of another layout go on", "until", time.Now().Add(t.after).Format(time.RFC3339), "flag", "--drain-timeout")
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(t.after):
	}
	if err := t.d.endDrain(); err != nil {
		return err
	}
	t.d.log.Info("connections of another layout have ended")
	return nil
}

func (d *Dataplane) drains() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loader.HasFormer()
}

func (d *Dataplane) endDrain() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.loader.EndFormer(), d.sayBehind(&d.gen.LBObjects, d.tables))
}
