// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/flows"
)

// entriesOf fills the flow table with n flows that live, two entries each.
func (r *rig) entriesOf(n int) {
	r.t.Helper()
	var clocks uint64
	var hz uint32
	_, err := clocksOf(r.d.gen)
	r.do(errors.Join(err, r.d.gen.ClockJiffies.Get(&clocks), r.d.gen.Hz.Get(&hz)))
	keys, values := make([]bpf.LBFlowKey, 0, 2*n), make([]bpf.LBFlow, 0, 2*n)
	vip := vipAt(1)
	for i := range n {
		client, server := numbered(51, i/30000, 20000+uint16(i%30000)), serverAt(1+i%4)
		k := bpf.LBFlowKey{Saddr: client.Addr().As16(), Daddr: vip.Addr().As16(), Sport: client.Port(), Dport: vip.Port(), Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E1)}
		f := bpf.LBFlow{Addr: server.Addr().As16(), Port: server.Port(), State: uint8(bpf.LBFlowStateSTATE_ESTABLISHED), Seen: uint32(clocks) - 20*hz}
		back := bpf.LBFlowKey{Saddr: f.Addr, Daddr: k.Saddr, Sport: f.Port, Dport: k.Sport, Proto: 6, Position: uint8(bpf.LBPositionPOSITION_E4)}
		reply := bpf.LBFlow{Addr: k.Daddr, Port: k.Dport, State: uint8(bpf.LBFlowStateSTATE_REPLY), Seen: f.Seen}
		keys, values = append(keys, k, back), append(values, f, reply)
	}
	_, err = r.d.loader.Map("flows").BatchUpdate(keys, values, nil)
	r.do(err)
}

// How long the sweeper takes of the kernel's time for a million entries, of
// which none ends, and how long the longest piece of it holds the CPU. Entries
// have rested for 20 s, so each reply's forward entry is looked up.
func BenchmarkSweepOfAMillionEntries(b *testing.B) {
	r := newRig(b, map[string]uint32{"flows": 1 << 21, "half_open": 1 << 18})
	r.apply(serve("web", from(1, 4), 1))
	r.follow()
	r.entriesOf(1 << 19)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var used, longest time.Duration
	pieces := 0
	for b.Loop() {
		before := threadTime()
		_, err := flows.Sweep(&r.d.gen.LBObjects, func() error {
			now := threadTime()
			piece := now - before
			before = now
			used, longest, pieces = used+piece, max(longest, piece), pieces+1
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "ms-CPU/walk")
	b.ReportMetric(float64(used.Microseconds())/float64(pieces), "µs/piece")
	b.ReportMetric(float64(longest.Microseconds()), "µs-longest")
}
