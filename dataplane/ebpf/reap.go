// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/maps/bits"
)

// reap frees what has rested: runs; ids of draining backends without load;
// services that have none of those left. Errors leave things for the next time.
func (s *state) reap() error {
	now, clock := s.now(), s.clock()
	s.space.wake(now)
	var errs []error
	for b := range s.draining {
		if clock-b.since >= grace && s.t.load.IsZero(b.id) {
			s.free(b)
		}
	}
	for rec := range s.gone {
		if now.Sub(rec.since) >= grace && rec.held == 0 {
			errs = append(errs, s.forget(rec))
		}
	}
	stuck := s.stuck[:0]
	for _, id := range s.stuck {
		if s.t.load.IsZero(id) {
			s.backendIDs.release(id)
		} else {
			stuck = append(stuck, id)
		}
	}
	s.stuck = stuck
	return errors.Join(errs...)
}

// flushLost tells the sweeper whether there are flows to be ended because their
// backend is gone.
func (s *state) flushLost() error {
	var any uint32
	for _, lost := range []map[*backend]struct{}{s.draining, s.unhealthy} {
		for b := range lost {
			if resetsLost(b) && !s.t.load.IsZero(b.id) {
				any = 1
			}
		}
	}
	if err := s.t.flushLost.Set(any); err != nil {
		return fmt.Errorf("tell the sweeper of lost flows: %w", err)
	}
	return nil
}

// free ends a backend that has no load.
func (s *state) free(b *backend) {
	s.t.backends.Free(b.id)
	for p := range b.bits.all() {
		s.backendBits.drop(bits.Backend(b.in.Addr, p))
	}
	for p := range b.masqueraded.all() {
		s.masqBits.drop(bits.Backend(b.in.Addr, p))
	}
	s.peerBits.drop(bits.Addr(b.in.Addr.Addr()))
	delete(s.draining, b)
	b.owner.held--
	s.byID[b.id] = nil
	s.backendIDs.release(b.id)
}

// forget ends a service that is gone and has no backends.
func (s *state) forget(rec *record) error {
	// the index may be another's next, and with it what is in there
	if err := errors.Join(s.t.info.Delete(rec.hash), s.setSources(rec, nil)); err != nil {
		return err
	}
	s.t.services.SetHash(rec.index, 0)
	for a := range rec.addrs.all() {
		s.vipBits.drop(bits.Addr(a))
	}
	for port := range rec.ports.all() {
		s.portBits.drop(bits.Port(port))
	}
	delete(s.gone, rec)
	delete(s.records, rec.hash)
	s.serviceIDs.release(rec.index)
	return nil
}
