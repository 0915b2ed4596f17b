// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"iter"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/stats"
)

// collect makes writes to hashes wait for flush: nobody reads the maps of a
// generation in the making, and each by itself would cost a system call.
func (s *state) collect() {
	s.t.vips.Later = batch.NewLater[bpf.LBVipKey, bpf.LBVip]()
	s.t.info.Later = batch.NewLater[uint64, bpf.LBServiceName]()
	s.t.backendIDs.Later = batch.NewLater[uint64, uint32]()
	s.zeroLater = true
}

// flush writes what was collected. From now on writes are written.
func (s *state) flush() error {
	s.zeroLater = false
	t := s.t
	err := errors.Join(t.vips.Later.Flush(t.vips.Map), t.info.Later.Flush(t.info.Map), t.backendIDs.Later.Flush(t.backendIDs.Map), s.zero(s.toZero))
	t.vips.Later, t.info.Later, t.backendIDs.Later, s.toZero = nil, nil, nil, nil
	return err
}

// zero makes counters begin at zero, as their ids are other backends' now.
func (s *state) zero(ids []uint32) error {
	if s.zeroLater {
		s.toZero = append(s.toZero, ids...)
		return nil
	}
	return stats.Zero(s.t.stats, ids)
}

// protocolSet is a set of the protocols of frontends.
type protocolSet uint8

var setOrder = [...]lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}

// add reports whether the protocol was not there.
func (p *protocolSet) add(protocol lb.Protocol) bool {
	for i, q := range setOrder {
		if q == protocol {
			was := *p
			*p |= 1 << i
			return *p != was
		}
	}
	return false
}

func (p protocolSet) all() iter.Seq[lb.Protocol] {
	return func(yield func(lb.Protocol) bool) {
		for i, q := range setOrder {
			if p>>i&1 == 1 && !yield(q) {
				return
			}
		}
	}
}
