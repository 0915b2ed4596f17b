// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// machine is one that kube-proxy has left, with a Watch.
type machine struct {
	*Watch
	t       *testing.T
	log     bytes.Buffer
	applied chan struct{}
	now     Found // what there is
	err     error // of looking
	removed int
	behind  dataplane.Behind // as told last
}

// left has rules, and connections that they lead.
func left(live int) Found {
	return Found{Items: []string{"nftables table ip kube-proxy"}, Live: live, Behind: dataplane.Behind{Translates: true}}
}

// watching runs a Watch in a bubble of time, until test ends.
func watching(t *testing.T, mode Mode, live int, test func(*machine)) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{t: t, applied: make(chan struct{}), now: left(live)}
		m.Watch = newWatch(Options{
			Mode: mode, Log: slog.New(slog.NewTextHandler(&m.log, nil)), Applied: m.applied,
			Served: func() *lb.Snapshot { return nil },
			Behind: func(b dataplane.Behind) error { m.behind = b; return nil },
		}, func(*lb.Snapshot) (*Found, error) {
			f := m.now
			return &f, m.err
		}, func(*Found) error {
			m.removed++
			m.now = Found{}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		test(m)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// after waits, and wants so many removals.
func (m *machine) after(d time.Duration, removals int) {
	m.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if m.removed != removals {
		m.t.Errorf("removed %d times, want %d", m.removed, removals)
	}
}

func (m *machine) logged(text string, times int) {
	m.t.Helper()
	if n := strings.Count(m.log.String(), text); n != times {
		m.t.Errorf("%q is %d times in the log, want %d:\n%s", text, n, times, m.log.String())
	}
}

func TestKeptRulesStay(t *testing.T) {
	watching(t, Keep, 0, func(m *machine) {
		if !m.behind.Translates {
			t.Error("the dataplane was not told before everything was applied")
		}
		close(m.applied)
		m.after(time.Hour, 0)
		m.logged("waggle cleanup --kube-proxy", 1)
		m.now = Found{} // by hand
		m.after(lookEvery, 0)
		if s := m.Status(); m.behind.Translates || len(s.Items) > 0 || s.Removed {
			t.Errorf("told %+v, status %+v", m.behind, s)
		}
	})
}

func TestRulesAreRemovedWithTheirLastConnection(t *testing.T) {
	watching(t, Remove, 2, func(m *machine) {
		m.after(time.Hour, 0)
		m.logged("last connection ends", 0) // not everything is applied
		close(m.applied)
		m.after(35*time.Minute, 0)
		m.logged("last connection ends", 4) // at once, and every ten minutes
		m.now = left(0)
		m.after(lookEvery, 1)
		if s := m.Status(); m.behind.Translates || len(s.Items) > 0 || !s.Removed {
			t.Errorf("told %+v, status %+v", m.behind, s)
		}
	})
}

func TestForceWaitsForNothingButTheFirstApply(t *testing.T) {
	watching(t, Force, 2, func(m *machine) {
		m.after(time.Hour, 0)
		close(m.applied)
		m.after(0, 1)
	})
}

// TestRulesThatComeBackStay: two who write and remove in turn serve nobody.
func TestRulesThatComeBackStay(t *testing.T) {
	watching(t, Remove, 0, func(m *machine) {
		close(m.applied)
		m.after(0, 1)
		m.now = left(0)
		m.after(time.Hour, 1)
		m.logged("have come back", 1)
		if !m.behind.Translates {
			t.Error("the dataplane was not told that they are back")
		}
	})
}

func TestAnErrorIsLoggedOnceAndTriedAgain(t *testing.T) {
	watching(t, Remove, 0, func(m *machine) {
		m.err = errors.New("netlink is broken")
		close(m.applied)
		m.after(time.Hour, 0)
		m.logged("netlink is broken", 1)
		m.err = nil
		m.after(lookEvery, 1)
	})
}
