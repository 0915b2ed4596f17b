// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/sync/control"
)

// told takes down what is called once deliveries are applied.
type told struct {
	r     *rig
	calls []string // with the time since the start
}

func (s *told) of(name string) func() {
	return func() { s.calls = append(s.calls, fmt.Sprint(name, " ", time.Since(s.r.start))) }
}

// want compares the calls since the last time.
func (s *told) want(calls ...string) {
	s.r.t.Helper()
	if diff := cmp.Diff(calls, s.calls); diff != "" {
		s.r.t.Errorf("calls (-want +got):\n%s", diff)
	}
	s.calls = nil
}

// wantTimes compares what the status says of deliveries, as times since the start: -1 is
// none.
func (s *told) wantTimes(queued, overdue, synced time.Duration) {
	s.r.t.Helper()
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return -1
		}
		return t.Sub(s.r.start)
	}
	st := s.r.loop.Progress()
	if of := s.r.loop.Status(); of.Progress != st {
		s.r.t.Errorf("the status says %+v, and asked alone it is %+v", of.Progress, st)
	}
	got := []time.Duration{since(st.Queued), since(st.Overdue), since(st.Synced)}
	if diff := cmp.Diff([]time.Duration{queued, overdue, synced}, got); diff != "" {
		s.r.t.Errorf("queued, overdue, synced (-want +got):\n%s", diff)
	}
}

func TestADeliveryIsToldOnceItIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.slow = time.Second
		s := &told{r: r}
		one, two := r.loop.Source("one"), r.loop.Source("two")
		r.run()
		s.wantTimes(-1, -1, -1)
		one(snapshot(t, service("web", 1, 1)), s.of("first"), s.of("the first's other"))
		settle(time.Minute)
		s.want() // the other source has not delivered
		s.wantTimes(0, 0, -1)
		two(nil, s.of("two's"))
		settle(500 * time.Millisecond) // Apply works
		s.want()
		one(snapshot(t, service("web", 1, 2)), s.of("second"))
		settle(10 * time.Second)
		s.want("first 1m1s", "the first's other 1m1s", "two's 1m1s", "second 1m2.01s")
		s.wantTimes(time.Minute+500*time.Millisecond, -1, time.Minute+2*time.Second+10*time.Millisecond)
		r.wantApplies("1m0s web:1>1", "1m1.01s web:1>2")
	})
}

func TestDeliveriesThatAreAppliedTogetherAreAllTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{Window: time.Second}, nil)
		s := &told{r: r}
		deliver := r.loop.Source("file")
		r.run()
		deliver(nil)
		settle(0)
		for n := range byte(3) {
			deliver(snapshot(t, service("web", 1, n)), s.of(fmt.Sprint(n)))
			settle(100 * time.Millisecond)
		}
		s.want()
		s.wantTimes(200*time.Millisecond, 0, 0)
		settle(time.Hour)
		s.want("0 1s", "1 1s", "2 1s")
		s.wantTimes(200*time.Millisecond, -1, time.Second)
		r.wantApplies("0s", "1s web:1>2")
	})
}

func TestWhatIsNotAppliedIsToldWhenItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{RetryMin: time.Second}, nil)
		s := &told{r: r}
		deliver := r.loop.Source("file")
		r.run()
		deliver(nil)
		settle(time.Second)
		r.fail("apply ")
		deliver(snapshot(t, service("web", 1, 1)), s.of("first"))
		settle(2 * time.Second)
		deliver(snapshot(t, service("web", 1, 2)), s.of("second"))
		settle(500 * time.Millisecond)
		s.want()
		s.wantTimes(3*time.Second, time.Second, 0)
		r.fail()
		settle(time.Hour)
		s.want("first 4s", "second 4s")
		s.wantTimes(3*time.Second, -1, 4*time.Second)
	})
}

// A service that fails must not keep the machine from telling of the others.
func TestServicesThatFailDoNotPutOffWhatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{RetryMin: time.Second}, nil)
		s := &told{r: r}
		r.fail("add bad")
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("bad", 1, 1), unsupported("odd", 2, 2), service("good", 3, 3)), s.of("first"))
		settle(500 * time.Millisecond)
		s.want("first 0s")
		s.wantTimes(0, -1, 0)
		settle(time.Second) // retries tell nothing again
		s.want()
		s.wantTimes(0, -1, time.Second)
	})
}

func TestEachApplyIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		r := newRig(t, control.Options{RetryMin: 10 * time.Second, Observe: func(d time.Duration) { took = append(took, d) }}, nil)
		r.slow = 3 * time.Second
		r.fail("apply ")
		deliver := r.loop.Source("file")
		r.run()
		deliver(nil)
		settle(5 * time.Second)
		r.slow = 5 * time.Second
		r.fail()
		settle(time.Minute)
		if diff := cmp.Diff([]time.Duration{3 * time.Second, 5 * time.Second}, took); diff != "" {
			t.Errorf("observed (-want +got):\n%s", diff)
		}
	})
}
