// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// change adds, deletes and edits servers, one most often, or binds another scheduler.
// Of several changes in one file, waggle makes deletions in the order of the list, then
// edits, then additions in the order of lines: docs/schedulers.md.
func (w *world) change(s *service) {
	w.Helper()
	w.tally[s.scheduler].changes++
	var gone []lb.Backend
	if w.rng.IntN(10) == 0 && slices.Contains(plain, s.scheduler) && s.args == "" {
		w.bind(s, plain[w.rng.IntN(len(plain))])
	} else {
		gone = w.changeServers(s)
	}
	w.do(w.waggle.restore(rules(w.services), w.mode))
	w.expire(s, gone)
}

// plain are schedulers without flags, of which one may take another's place.
var plain = []string{"rr", "wrr", "lc", "wlc", "sed", "nq"}

// bind binds another scheduler. A service that has a weight too large for wrr keeps
// the one it has.
func (w *world) bind(s *service, scheduler string) {
	w.Helper()
	if scheduler == "wrr" && slices.ContainsFunc(s.backends, func(b lb.Backend) bool { return b.Weight == lb.MaxWeight }) {
		return
	}
	s.logf("scheduler %s", scheduler)
	s.scheduler = scheduler
	w.do(w.kernel.bind(s.frontend, scheduler))
}

// changeServers returns the servers that were deleted.
func (w *world) changeServers(s *service) (gone []lb.Backend) {
	w.Helper()
	n := 1
	if w.rng.IntN(4) == 0 {
		n = 2 + w.rng.IntN(2)
	}
	edits, added := make(map[netip.AddrPort]lb.Backend), make(map[netip.AddrPort]bool)
	for _, i := range w.rng.Perm(maxServers)[:n] {
		b := s.drawn(w.rng, serverAt(w.family, i))
		at := slices.IndexFunc(s.backends, func(o lb.Backend) bool { return o.Addr == b.Addr })
		switch {
		case at < 0 && (w.isLeaving(s, b) || w.staysAway(s, b)):
		case at < 0:
			s.backends, added[b.Addr] = append(s.backends, b), true
		case w.rng.IntN(3) == 0:
			s.backends = slices.Delete(s.backends, at, at+1)
			gone = append(gone, b)
		case s.backends[at] != b: // or it is no change in a file, known_privileged_test.go
			s.backends[at], edits[b.Addr] = b, b
		}
	}
	// where lines stand in the file does not matter, but for new ones among each other
	w.rng.Shuffle(len(s.backends), func(i, j int) { s.backends[i], s.backends[j] = s.backends[j], s.backends[i] })
	list := w.waggle.snap.Service(s.id()).Backends
	for _, b := range list {
		if slices.ContainsFunc(gone, func(o lb.Backend) bool { return o.Addr == b.Addr }) {
			s.logf("delete %s", b.Addr)
			s.returned[b.Addr] = true
			w.do(w.kernel.remove(s.frontend, b))
		}
	}
	for _, b := range list {
		if b, ok := edits[b.Addr]; ok {
			s.logf("edit %s", line(b))
			w.do(w.kernel.edit(s.frontend, b))
		}
	}
	for _, b := range s.backends {
		if added[b.Addr] {
			s.logf("add %s", line(b))
			w.do(w.kernel.add(s.frontend, b))
		}
	}
	return gone
}
