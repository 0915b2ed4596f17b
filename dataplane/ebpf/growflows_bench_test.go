// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

// How long the flow table takes to grow from 1,048,576 entries, of which four
// fifths are taken, to twice as many, how long the longest piece of it holds a
// CPU, and how many packets of its flows do not go where they should meanwhile.
func BenchmarkGrowthOfAMillionEntries(b *testing.B) {
	const flows = 1 << 20 * 4 / 5 / 2
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, map[string]uint32{"flows": 1 << 20, "half_open": 1 << 18})
		r.apply(serve("web", from(1, 4), 1))
		w := newWire(r)
		r.entriesOf(flows)
		var between sync.Mutex // is a packet on its way
		r.onStep = func(s loader.GrowthStep) error {
			between.Lock()
			defer between.Unlock()
			w.take(r)
			return nil
		}
		ctx, stop := context.WithCancel(b.Context())
		var sender errgroup.Group
		sent, lost := 0, 0
		sender.Go(func() error {
			for ctx.Err() == nil {
				i := rand.IntN(flows)
				between.Lock()
				_, to, passed, err := w.run(w.ingress, lb.TCP, endOf(numbered(51, i/30000, 20000+uint16(i%30000))), endOf(vipAt(1)), packet.ACK)
				between.Unlock()
				if err != nil {
					return err
				}
				sent++
				if !passed || to != endOf(serverAt(1+i%4)) {
					lost++
				}
			}
			return nil
		})
		b.StartTimer()
		g := r.grow()
		b.StopTimer()
		stop()
		r.do(sender.Wait())
		if g.moved != 2*flows {
			b.Errorf("moved %d entries, want %d", g.moved, 2*flows)
		}
		b.ReportMetric(float64(g.took.Milliseconds()), "ms")
		b.ReportMetric(float64(g.longest.Microseconds()), "µs-longest-piece")
		b.ReportMetric(float64(sent), "packets")
		b.ReportMetric(float64(lost), "lost")
		b.StartTimer()
	}
}
