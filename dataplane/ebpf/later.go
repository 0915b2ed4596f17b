// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"iter"
	"math"
	"slices"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/stats"
)

// collect makes writes to hashes wait for flush: nobody reads the maps of a
// generation in the making, and each by itself would cost a system call.
// counted is where the ids end that programs may have counted for.
func (s *state) collect(counted uint32) {
	s.counted = counted
	for _, b := range s.bitRefs() {
		b.later = batch.NewBeside(b.holdAll)
	}
	s.t.vips.Later = batch.NewLater[bpf.LBVipKey, bpf.LBVip]()
	s.t.info.Later = batch.NewLater[uint64, bpf.LBServiceName]()
}

// flush writes what was collected. From now on writes are written.
func (s *state) flush() error {
	s.counted = math.MaxUint32
	t := s.t
	for _, b := range s.bitRefs() {
		b.flushLater()
		b.later = nil
	}
	s.enterNow()
	err := errors.Join(t.vips.Later.Flush(), t.info.Later.Flush())
	t.vips.Later, t.info.Later = nil, nil
	return err
}

// enterLater has backends found by their hashes at flush only, or enterNow: where
// nobody looks for one meanwhile.
func (s *state) enterLater() { s.t.backends.Later = s.t.backends.NewLater() }

func (s *state) enterNow() {
	if l := s.t.backends.Later; l != nil {
		l.Flush()
		s.t.backends.Later = nil
	}
}

// zero makes counters begin at zero, as their ids are other backends' now.
func (s *state) zero(list []backend) error {
	var used []uint32
	for i := range list {
		if id := list[i].id; id < s.counted {
			used = append(used, id)
		}
	}
	return stats.Zero(s.t.stats, used)
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

func (p protocolSet) has(protocol lb.Protocol) bool {
	i := slices.Index(setOrder[:], protocol)
	return i >= 0 && p>>i&1 == 1
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
