// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/sync/control"
)

func waiting(l *control.Loop) []string {
	s := l.Status()
	return s.Waiting()
}

func TestNothingIsAppliedBeforeEverySourceDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := fake.New(fake.Options{})
		before.Apply(snapshot(t, service("old", 9, 1)))
		r := newRig(t, control.Options{}, before.Kernel())
		first, second, third := r.loop.Source("first"), r.loop.Source("second"), r.loop.Source("third")
		r.run()
		second(snapshot(t, service("b", 2, 2)))
		settle(time.Hour)
		if diff := cmp.Diff([]string{"first", "third"}, waiting(r.loop)); diff != "" {
			t.Errorf("waiting (-want +got):\n%s", diff)
		}
		first(snapshot(t, service("a", 1, 1)))
		settle(time.Hour)
		r.wantApplies()
		r.wantHeld("old:9>1")
		if s := r.loop.Status(); s.Desired != nil || r.ready() {
			t.Errorf("status %+v, ready %t before the third source delivered", s, r.ready())
		}
		third(snapshot(t, service("c", 3, 3)))
		settle(0)
		r.wantApplies("2h0m0s a:1>1 b:2>2 c:3>3")
		r.wantHeld("a:1>1 b:2>2 c:3>3")
		if s := r.loop.Status(); len(s.Waiting()) > 0 || show(s.Desired) != "a:1>1 b:2>2 c:3>3" || !r.ready() {
			t.Errorf("status %+v, ready %t after all delivered", s, r.ready())
		}
	})
}

func TestTheFirstChangeAfterAPauseWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{Window: time.Second}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		deliver(snapshot(t, service("web", 1, 2)))
		settle(time.Hour)
		deliver(snapshot(t, service("web", 1, 3)))
		settle(0)
		r.wantApplies("0s web:1>1", "1s web:1>2", "1h0m1s web:1>3")
	})
}

func TestChangesWithinTheWindowAreAppliedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.slow = 5 * time.Millisecond
		one, two := r.loop.Source("one"), r.loop.Source("two")
		r.run()
		two(nil)
		one(snapshot(t, service("web", 1, 1)))
		settle(2 * time.Millisecond) // while Apply works, until 5 ms
		one(snapshot(t, service("web", 1, 2)))
		settle(6 * time.Millisecond)
		one(snapshot(t, service("web", 1, 3)))
		settle(4 * time.Millisecond)
		two(snapshot(t, service("dns", 2, 1)))
		one(snapshot(t, service("web", 1, 4)))
		settle(time.Hour)
		// the window is 10 ms from the end of the Apply before
		r.wantApplies("0s web:1>1", "15ms dns:2>1 web:1>4")
	})
}

func TestANegativeWindowIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{Window: -1}, nil)
		deliver := r.loop.Source("file")
		r.run()
		for n := range byte(3) {
			deliver(snapshot(t, service("web", 1, n)))
			settle(0)
		}
		r.wantApplies("0s web:1>0", "0s web:1>1", "0s web:1>2")
	})
}

func TestFailedServicesAreRetriedAndOthersAreNotRewritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{RetryMin: time.Second, RetryMax: 5 * time.Second}, nil)
		r.fail("add bad")
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("bad", 1, 1), service("good", 2, 2)))
		settle(13 * time.Second)
		const state = " bad:1>1 good:2>2"
		r.wantApplies("0s"+state, "1s"+state, "3s"+state, "7s"+state, "12s"+state)
		r.wantCalls("supports bad, supports good, add bad, add good, add bad, add bad, add bad, add bad")
		r.wantHeld("good:2>2")
		if s := r.loop.Status(); s.Retries != 5 || !errors.Is(s.Report.Failed[id("bad")], errFault) || r.ready() {
			t.Errorf("status %+v, ready %t, want 5 incomplete Applies", s, r.ready())
		}

		// A new state is tried at once, and the pauses begin anew.
		deliver(snapshot(t, service("bad", 1, 1), service("good", 2, 3)))
		settle(5 * time.Second)
		const next = " bad:1>1 good:2>3"
		r.wantApplies("13s"+next, "14s"+next, "16s"+next)
		if s := r.loop.Status(); s.Retries != 3 {
			t.Errorf("%d retries of the new state, want 3", s.Retries)
		}

		r.fail()
		settle(time.Hour)
		r.wantApplies("20s" + next)
		r.wantHeld("bad:1>1 good:2>3")
		if s := r.loop.Status(); s.Retries != 3 || len(s.Report.Failed) > 0 || !r.ready() {
			t.Errorf("status %+v, ready %t after the last retry", s, r.ready())
		}
	})
}

// TestANewStateAtTheTimeOfARetryBeginsThePausesAnew: whichever of the two the
// loop sees first.
func TestANewStateAtTheTimeOfARetryBeginsThePausesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{Window: -1, RetryMin: time.Second}, nil)
		r.fail("add web")
		deliver := r.loop.Source("file")
		r.run()
		for n := range byte(200) {
			deliver(snapshot(t, service("web", 1, n)))
			settle(0)
			r.takeApplies()
			time.Sleep(time.Second) // ends with the retry
			deliver(snapshot(t, service("web", 1, n, n+1)))
			settle(time.Second)
			want := fmt.Sprintf("%s web:1>%d,%d", 2*time.Second*time.Duration(int(n)+1), n, n+1)
			if got := r.takeApplies(); len(got) == 0 || got[len(got)-1] != want {
				t.Fatalf("round %d: applies %q, want the last to be %q", n, got, want)
			}
		}
	})
}

func TestAnApplyErrorIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.fail("apply ")
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		r.wantApplies("0s web:1>1", "100ms web:1>1", "300ms web:1>1", "700ms web:1>1")
		if s := r.loop.Status(); !errors.Is(s.Report.Err, errFault) || s.Retries != 4 || r.ready() {
			t.Errorf("status %+v, ready %t, want the fault", s, r.ready())
		}
		r.fail()
		settle(time.Hour)
		r.wantApplies("1.5s web:1>1")
		r.wantHeld("web:1>1")
		s := r.loop.Status()
		if s.Report.Err != nil || !r.ready() {
			t.Errorf("status %+v, ready %t after the retry", s, r.ready())
		}
		if at := s.Applied.Sub(r.start); s.Applies != 5 || s.Incomplete != 4 || at != 1500*time.Millisecond {
			t.Errorf("%d Applies, %d incomplete, the last at %v; want 5, 4, 1.5s", s.Applies, s.Incomplete, at)
		}
	})
}

func TestRetriesArePausedTenSecondsAtMostByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.fail("apply ")
		deliver := r.loop.Source("file")
		r.run()
		deliver(nil)
		settle(36 * time.Second)
		r.wantApplies("0s", "100ms", "300ms", "700ms", "1.5s", "3.1s", "6.3s", "12.7s", "22.7s", "32.7s")
	})
}

func TestFailuresAreLoggedOnceUntilTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.fail("add web")
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Hour)
		const failed = `level=ERROR msg="service not applied" service=web/ipv4 error="add service web/ipv4: disk on fire"`
		r.wantLog(failed)

		r.fail("apply ")
		settle(time.Hour)
		r.wantLog(`level=ERROR msg="apply failed" error="apply snapshot: disk on fire"`)

		r.fail()
		settle(time.Minute)
		const applied = `level=INFO msg=applied added=1 changed=0 removed=0 failed=0`
		r.wantLog(applied)

		// what is over and comes back is news
		deliver(nil)
		settle(time.Minute)
		r.wantLog(`level=INFO msg=applied added=0 changed=0 removed=1 failed=0`)
		r.fail("add web")
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Minute)
		r.wantLog(failed)
	})
}

func TestRecoveryIsLoggedEvenIfNothingWasLeftToWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.fail("add web")
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		r.log.take()
		deliver(nil)
		settle(time.Second)
		r.wantLog(`level=INFO msg=applied added=0 changed=0 removed=0 failed=0`)
	})
}

func TestASourceThatDeliversNilWantsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		one, two := r.loop.Source("one"), r.loop.Source("two")
		r.run()
		one(snapshot(t, service("a", 1, 1)))
		two(snapshot(t, service("b", 2, 2)))
		settle(time.Second)
		one(nil)
		settle(time.Second)
		r.wantHeld("b:2>2")
		two(nil)
		settle(time.Second)
		r.wantHeld("")
		if s := r.loop.Status(); s.Desired.Len() != 0 || s.Report.Removed != 1 || len(s.Waiting()) > 0 {
			t.Errorf("status %+v, want one removed and nobody waited for", s)
		}
	})
}

func TestRunWithoutSourcesFailsAndRemovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := fake.New(fake.Options{})
		before.Apply(snapshot(t, service("old", 9, 1)))
		r := newRig(t, control.Options{}, before.Kernel())
		if err := r.loop.Run(t.Context()); err == nil || err.Error() != "no source is registered" {
			t.Errorf("got %v, want an error", err)
		}
		r.wantHeld("old:9>1")
	})
}

func TestWhatWasAppliedStaysWhenTheLoopEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{Window: time.Second}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Millisecond)
		deliver(nil) // it waits for the window
		settle(time.Millisecond)
		if err := r.stop(); err != nil {
			t.Errorf("run: %v, want nil", err)
		}
		settle(time.Hour)
		r.wantApplies("0s web:1>1")
		r.wantHeld("web:1>1")
		deliver(nil) // nobody is there; it must not block
		deliver(nil)
	})
}

func TestNewNeedsDataplaneAndLogger(t *testing.T) {
	dp, log := fake.New(fake.Options{}), slog.New(slog.DiscardHandler)
	for name, opts := range map[string]control.Options{"dataplane": {Logger: log}, "logger": {Dataplane: dp}} {
		if _, err := control.New(opts); err == nil {
			t.Errorf("a loop without %s was made", name)
		}
	}
	loop, err := control.New(control.Options{Dataplane: dp, Logger: log})
	if err != nil || loop.String() != "control loop" {
		t.Errorf("got %v, %v", loop, err)
	}
}

// TestStatusDuringDeliveriesAndApplies is for the race detector, and wants the
// last delivery to be what counts.
func TestStatusDuringDeliveriesAndApplies(t *testing.T) {
	dp := fake.New(fake.Options{FailEvery: 3})
	loop, err := control.New(control.Options{
		Dataplane: dp, Logger: slog.New(slog.DiscardHandler), Window: time.Microsecond, RetryMin: time.Microsecond, RetryMax: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	one, two := loop.Source("one"), loop.Source("two")
	var loops, senders, readers sync.WaitGroup
	loops.Go(func() {
		if err := loop.Run(t.Context()); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	done := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			s := loop.Status()
			for svc := range s.Desired.All() {
				_ = s.Report.Failed[svc.ID]
			}
		}
	})
	senders.Go(func() {
		for n := range byte(200) {
			one(snapshot(t, service("a", 1, n), unsupported("c", 3, n)))
		}
	})
	senders.Go(func() {
		for n := range byte(200) {
			two(snapshot(t, service("b", 1+n%2, n)))
		}
	})
	senders.Wait()
	const want = "a:1>199 b:2>199"
	deadline := time.Now().Add(20 * time.Second)
	for held := ""; held != want; time.Sleep(time.Millisecond) {
		snap, err := dp.Read()
		if err != nil {
			t.Fatal(err)
		}
		if held = show(snap); held != want && time.Now().After(deadline) {
			t.Errorf("the kernel serves %q, want %q", held, want)
			break
		}
	}
	close(done)
	readers.Wait()
}

func TestTheLoopShowsThatItTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		r.slow = time.Minute
		deliver := r.loop.Source("file")
		r.run()
		if err := r.loop.Beat(t.Context()); err != nil { // nothing is delivered yet
			t.Error(err)
		}
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		before := time.Now()
		if err := r.loop.Beat(t.Context()); err != nil {
			t.Error(err)
		}
		if held := time.Since(before); held != r.slow-time.Second {
			t.Errorf("it answered after %v, want it to when Apply has ended", held)
		}
		settle(time.Hour)
		r.wantApplies("0s web:1>1")
	})
}
