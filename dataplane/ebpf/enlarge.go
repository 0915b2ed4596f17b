// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/batch"
)

// enlarged is the state for larger maps, which say nothing yet: fillFrom makes them say
// what those of s do. The two share what they know, so until packets see the larger maps
// it is not changed, and then s is not used any more.
func (s *state) enlarged(t *tables) *state {
	e := *s
	e.t = t
	e.serviceIDs, e.backendIDs = s.serviceIDs.enlarged(t.services.Len()), s.backendIDs.enlarged(t.backends.Len())
	e.byID = append(slices.Clip(s.byID), make([]*backend, t.backends.Len()-s.t.backends.Len())...)
	space := *s.space
	space.end = t.slots.Len()
	e.space = &space
	e.node = lb.Node{} // is said anew
	e.peers = maps.Clone(s.peers)
	s.enlargedBits(&e)
	return &e
}

// holds reports whether maps have room for all that is in those of s, in its place.
func (s *state) holds(t *tables) bool {
	return t.services.Len() >= s.t.services.Len() && t.backends.Len() >= s.t.backends.Len() && t.slots.Len() >= s.t.slots.Len() && t.vips.Len() >= s.t.vips.Len()
}

// fillFrom copies what the maps of a smaller generation say, which is not changed
// meanwhile but for cursors. Call the returned function just before publishing; it takes
// these along.
func (s *state) fillFrom(from *state) (follow func(), err error) {
	var hashes errgroup.Group
	hashes.Go(func() error { return batch.Copy[bpf.LBVipKey, bpf.LBVip](from.t.vips.Map, s.t.vips.Map) })
	hashes.Go(func() error { return batch.Copy[uint64, bpf.LBServiceName](from.t.info.Map, s.t.info.Map) })
	s.t.services.CopyFrom(from.t.services)
	s.t.slots.CopyFrom(from.t.slots)
	s.t.backends.CopyFrom(from.t.backends)
	var errs []error
	if s.anyPort {
		if err := s.t.anyPort.Set(uint32(1)); err != nil {
			errs = append(errs, fmt.Errorf("tell the programs of a backend with any port: %w", err))
		}
	}
	for _, rec := range s.records {
		if len(rec.sources) > 0 {
			errs = append(errs, s.t.sources.Sync(rec.index, nil, rec.sources))
		}
	}
	follow = func() {
		for _, rec := range s.records {
			for i := range rec.pools {
				if p := &rec.pools[i]; p.at.words > 0 && p.run.Rule == sched.Cursor {
					s.t.slots.CopyPosition(from.t.slots, p.at.pool.Base)
				}
			}
		}
		s.announce(from.t.bits())
	}
	return follow, errors.Join(append(errs, hashes.Wait())...)
}
