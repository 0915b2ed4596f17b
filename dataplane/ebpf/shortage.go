// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"log/slog"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/maps/stats"
)

// shortages are the drops of which somebody should hear without asking: new
// connections do not come to be, and there is a remedy.
var shortages = [...]struct {
	reason  bpf.LBDropReason
	problem string
	remedy  string
}{
	{bpf.LBDropReasonDROP_NO_PORT, "no port is free to masquerade with, towards a backend", "widen --masquerade-ports, or spread the load over more backends; `waggle flows -o wide` shows who holds the ports"},
	{bpf.LBDropReasonDROP_NO_ADDRESS, "this machine has no address of the family to masquerade with", "give it one: ip addr add ADDRESS dev DEVICE"},
	{bpf.LBDropReasonDROP_FLOWS_FULL, "the flow table is full", "see who opens so many: `waggle flows`; raise --flows-max, or --flows-min if it grows too late"},
}

// How often the drops are read, and how often one reason is spoken of at most.
const (
	shortageEvery = 2 * time.Second
	repeatAfter   = time.Minute
)

// shortageLog says when packets are dropped for want of something. At once
// when it begins, then with a pause.
type shortageLog struct {
	log *slog.Logger
	// seen is what was counted when the reason was last spoken of, at is when.
	seen [len(shortages)]uint64
	at   [len(shortages)]time.Time
}

// note compares the counts of shortages with those before. The first call only
// remembers: what others met before this process started is old news.
func (l *shortageLog) note(counts [len(shortages)]uint64, now time.Time, first bool) {
	for i, s := range shortages {
		switch n := counts[i] - l.seen[i]; {
		case first || counts[i] < l.seen[i]: // less: the map is another
			l.seen[i] = counts[i]
		case n > 0 && now.Sub(l.at[i]) >= repeatAfter:
			l.log.Warn("new connections are dropped", "problem", s.problem, "packets", n, "remedy", s.remedy)
			l.seen[i], l.at[i] = counts[i], now
		}
	}
}

// countShortages reads how many packets each of shortages cost so far.
func countShortages(drops *ebpf.Map) (counts [len(shortages)]uint64, err error) {
	err = stats.EachDrop(drops, func(reason uint32, packets uint64) {
		for i, s := range shortages {
			if uint32(s.reason) == reason {
				counts[i] = packets
			}
		}
	})
	return counts, err
}

func (d *Dataplane) drops() *ebpf.Map {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loader.Map("drops")
}

// shortageWatcher logs shortages as they happen.
type shortageWatcher struct {
	task.Readiness
	d *Dataplane
}

func (*shortageWatcher) String() string { return "shortages" }

func (t *shortageWatcher) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	tick := time.NewTicker(shortageEvery)
	defer tick.Stop()
	l := &shortageLog{log: t.d.log}
	first, last := true, ""
	for {
		counts, err := countShortages(t.d.drops())
		if err == nil {
			l.note(counts, time.Now(), first)
			first, last = false, ""
		} else if text := err.Error(); text != last {
			t.d.log.Error("drops are not watched", "error", err)
			last = text
		}
		t.SetReady()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
