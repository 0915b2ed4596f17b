// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"sync"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/loader"
)

// second is the flow table that the first grows into, for readers that take no
// part in it. Safe for concurrent use.
type second struct {
	pinPath string
	first   *cilium.Map

	mu    sync.Mutex
	table *cilium.Map
}

// open returns it; nil if there is none.
func (s *second) open() (_ *cilium.Map, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table == nil {
		s.table, err = loader.OpenNext(s.pinPath, s.first)
	}
	return s.table, err
}

func (s *second) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Close()
}
