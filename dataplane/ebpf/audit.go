// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

const (
	// auditEvery is how often the audit recounts. A difference is a bug that is
	// there until somebody mends it, not an emergency: what asks for it is a
	// graph and an alert, which look at minutes. A recount is a walk over the
	// table (docs/maps.md says what it costs), which at this pace is less than
	// a hundredth of what the sweeper walks.
	auditEvery = time.Minute
	// auditBreath is the pause after every piece.
	auditBreath = time.Millisecond
	// auditSays is how many backends one recount names in the log at most.
	auditSays = 10
)

// auditor recounts the flows and sockets of all backends, keeps the result for who asks, and
// logs what differs. It repairs nothing: see Recount.
type auditor struct {
	task.Readiness
	d *Dataplane
}

func (*auditor) String() string { return "audit of counts" }

func (t *auditor) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	t.SetReady() // nobody waits for the first one
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	l := &auditLog{log: t.d.log, said: make(map[miscounter]uint64)}
	last := ""
	for {
		got, err := t.d.audit(ctx)
		if err == nil {
			l.note(&got)
			last = ""
		} else if text := err.Error(); !errors.Is(err, context.Canceled) && text != last {
			t.d.log.Error("counts are not audited", "error", err)
			last = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// audit recounts once and remembers the result. It fails with ctx, or when
// another generation replaces the one that it reads.
func (d *Dataplane) audit(ctx context.Context) (dataplane.Recount, error) {
	got, err := d.recount(ctx)
	if err != nil {
		return got, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.audited, d.auditedAt = got, time.Now()
	return got, nil
}

func (d *Dataplane) recount(ctx context.Context) (dataplane.Recount, error) {
	leased, gen, release := d.lease(ctx)
	defer release()
	return d.readerOf(configOf(&gen.LBMaps)).recount(leased, auditBreath)
}

// miscounter is whose count differs: an id may be another backend's later.
type miscounter struct {
	backend lb.BackendID
	id      uint32
}

// auditLog names each backend whose counts differ once, and again if the
// difference is another.
type auditLog struct {
	log  *slog.Logger
	said map[miscounter]uint64
}

func (l *auditLog) note(r *dataplane.Recount) {
	left := auditSays
	for _, m := range r.Wrong {
		who := miscounter{m.Backend, m.ID}
		if said, ok := l.said[who]; ok && (said == m.Difference || m.AtLeast) {
			continue
		}
		l.said[who] = m.Difference
		if left--; left < 0 {
			continue
		}
		service, backend := m.Backend.Service.String(), m.Backend.Addr.String()
		if m.Backend == (lb.BackendID{}) {
			service, backend = "none", "none"
		}
		l.log.Error("connection counts differ from the flows and sockets that there are: this is a bug of waggle, please report it",
			"service", service, "backend", backend, "id", m.ID,
			"active", m.Counted.Active, "active_flows", m.Found.Active, "inactive", m.Counted.Inactive, "inactive_flows", m.Found.Inactive)
	}
	if left < 0 {
		l.log.Error("connection counts of more backends differ: `waggle stats` shows them", "backends", -left)
	}
}
