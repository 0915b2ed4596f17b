// SPDX-License-Identifier: Apache-2.0

package info

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSinceFollowsTheClockAroundItsWrap(t *testing.T) {
	const wrap = 1 << 32
	for _, c := range []struct {
		name string
		now  uint64
		seen uint32
		want time.Duration
	}{
		{"now", 1000, 1000, 0},
		{"a second ago", 1250, 1000, time.Second},
		{"a jiffy ago", 1001, 1000, 4 * time.Millisecond},
		{"before the wrap", 3*wrap + 5, wrap - 245, time.Second},
		{"at the wrap", 7 * wrap, wrap - 250, time.Second},
		{"a little in the future, as another CPU's clock", 1000, 1002, 0},
		{"a little in the future, across the wrap", 2*wrap - 1, 1, 0},
		{"100 days ago: more than half a wrap", 2*wrap + 8_640_000*250, 0, 8_640_000 * time.Second},
	} {
		if got := (Clocks{Hz: 250}).Since(c.now, c.seen); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := (Clocks{Hz: 1000}).Since(5, wrap-1995); got != 2*time.Second {
		t.Errorf("at 1000 a second: %v, want 2s", got)
	}
}

// monotonic is CLOCK_MONOTONIC in ns.
func monotonic(t *testing.T) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

func TestNowGoesOnFromThePairOfClocks(t *testing.T) {
	const jiffies = 1<<32 - 100
	ktime := monotonic(t)
	for _, hz := range []uint32{100, 250, 300, 1000} {
		for _, ago := range []uint64{0, 1, 999_999_999, 10_000_000_001, ktime} {
			before := monotonic(t)
			got, err := Clocks{Hz: hz, Jiffies: jiffies, Ktime: ktime - ago}.Now()
			if err != nil {
				t.Fatal(err)
			}
			after := monotonic(t)
			low, high := jiffies+(before-ktime+ago)*uint64(hz)/1e9, jiffies+(after-ktime+ago)*uint64(hz)/1e9
			if got < low || got > high {
				t.Errorf("%d a second, pair %d ns old: %d, want %d to %d", hz, ago, got, low, high)
			}
		}
	}
	if got, err := (Clocks{Hz: 250, Jiffies: jiffies, Ktime: ktime + 1e15}).Now(); err != nil || got != jiffies {
		t.Errorf("a pair from the future: %d, %v, want its own %d", got, err, jiffies)
	}
}
