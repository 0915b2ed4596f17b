// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf/link"
)

// sweeper walks the flow table.
type sweeper struct{ it *link.Iter }

func newSweeper(k *kernel) (*sweeper, error) {
	it, err := link.AttachIter(link.IterOptions{Program: k.Sweep, Map: k.Flows})
	if err != nil {
		return nil, fmt.Errorf("attach the sweeper: %w", err)
	}
	return &sweeper{it}, nil
}

func (s *sweeper) Close() { _ = s.it.Close() }

// setFlush tells it whether lost flows end.
func (k *kernel) setFlush(on bool) error {
	var v uint32
	if on {
		v = 1
	}
	return k.FlushLost.Set(v)
}

func (s *sweeper) walk() error {
	r, err := s.it.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}
