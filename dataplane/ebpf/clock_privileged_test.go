// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"testing"
	"time"

	"github.com/waggle-lb/waggle/maps/info"
)

// What a reader computes from meta is what the programs see, long after it was
// written: the rate is the kernel's.
func TestTheClocksOfMetaGoAsTheKernels(t *testing.T) {
	r := newRig(t, nil)
	r.apply()
	pair, err := info.ReadClocks(r.d.gen.Meta)
	r.do(err)
	for {
		before, err := pair.Now()
		r.do(err)
		kernel, err := clocksOf(r.d.gen)
		r.do(err)
		after, err := pair.Now()
		r.do(err)
		if kernel.Jiffies+2 < before || kernel.Jiffies > after+2 {
			t.Fatalf("after %v the kernel is at jiffy %d, the clocks of meta, at %d a second, at %d to %d",
				time.Duration(kernel.Ktime-pair.Ktime), kernel.Jiffies, pair.Hz, before, after)
		}
		if kernel.Ktime-pair.Ktime > uint64(time.Second) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
