// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// watched is a rig whose dataplane logs to a buffer, and followed a state
// without devices.
func watched(t *testing.T) (*rig, *bytes.Buffer) {
	t.Helper()
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 2), 1))
	var log bytes.Buffer
	r.d.log = slog.New(slog.NewTextHandler(&log, nil))
	if !r.d.follow(nlx.State{}) || log.Len() > 0 {
		t.Fatalf("the first state: %s", &log)
	}
	return r, &log
}

// look lets the follower look at everything now, and reports whether all is in
// order.
func (r *rig) look(s nlx.State) bool {
	r.d.following.pinsAt = time.Time{}
	return r.d.follow(s)
}

// wantFollowed compares counts, what is broken, and how many lines were logged
// since the last time.
func (r *rig) wantFollowed(log *bytes.Buffer, pins, addresses uint64, broken, lines int) {
	r.t.Helper()
	s, err := r.d.Status()
	r.do(err)
	if s.Mended["pin"] != pins || s.Followed["address"] != addresses || len(s.Broken) != broken || strings.Count(log.String(), "\n") != lines {
		r.t.Errorf("%d pins, %d addresses, broken %q, want %d, %d, %d of them; log, want %d lines:\n%s",
			s.Mended["pin"], s.Followed["address"], s.Broken, pins, addresses, broken, lines, log)
	}
	log.Reset()
}

func TestAPinThatComesBackIsCountedAndLoggedOnce(t *testing.T) {
	r, log := watched(t)
	pin := filepath.Join(r.pins, "affinity")
	for n := range uint64(2) { // again, when it happens again
		r.do(os.Remove(pin))
		r.look(nlx.State{})
		r.look(nlx.State{})
		if _, err := os.Lstat(pin); err != nil || !strings.Contains(log.String(), pin) {
			t.Errorf("the pin: %v; the log:\n%s", err, log)
		}
		r.wantFollowed(log, n+1, 0, 0, 1)
	}
	r.do(os.Remove(pin))
	r.d.follow(nlx.State{}) // so soon after the last look it is not looked for
	r.wantFollowed(log, 2, 0, 0, 0)
	r.look(nlx.State{})
	r.wantFollowed(log, 3, 0, 0, 1)
}

func TestWhatCannotBeMendedIsShownUntilItIsGone(t *testing.T) {
	r, log := watched(t)
	stranger, err := cilium.NewMap(&cilium.MapSpec{Type: cilium.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	r.do(err)
	defer stranger.Close()
	pin := filepath.Join(r.pins, "affinity")
	for n := range uint64(2) {
		r.do(os.Remove(pin))
		c, err := stranger.Clone()
		r.do(err)
		r.do(c.Pin(pin))
		r.do(c.Close())
		for range 2 {
			if r.look(nlx.State{}) {
				t.Error("all is said to be in order")
			}
		}
		if r.d.follow(nlx.State{}) { // it remembers what the last look found
			t.Error("so soon after it all is said to be in order")
		}
		r.wantFollowed(log, n, 0, 1, 1)
		r.do(os.Remove(pin))
		r.look(nlx.State{})
		r.wantFollowed(log, n+1, 0, 0, 1)
	}
}

func TestAddressesThatComeAndGoAreCountedAndLogged(t *testing.T) {
	r, log := watched(t)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	r.look(nlx.State{Addrs: []netip.Addr{a, b}})
	if !strings.Contains(log.String(), "address=192.0.2.1") || !strings.Contains(log.String(), "address=2001:db8::1") {
		t.Errorf("log:\n%s", log)
	}
	r.wantFollowed(log, 0, 2, 0, 2)
	r.look(nlx.State{Addrs: []netip.Addr{a, b}})
	r.wantFollowed(log, 0, 2, 0, 0)
	r.look(nlx.State{Addrs: []netip.Addr{b}})
	r.wantFollowed(log, 0, 3, 0, 1)
}
