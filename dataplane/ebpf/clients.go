// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/maps/affinity"
	"github.com/waggle-lb/waggle/maps/info"
)

// Clients calls yield for every client that affinity keeps at a backend which is
// there, in no order, until yield returns an error, which Clients returns.
func (r *reader) Clients(yield func(dataplane.Client) error) error {
	c, err := r.contents()
	if err != nil {
		return err
	}
	clocks, err := info.ReadClocks(r.meta)
	if err != nil {
		return err
	}
	now, err := clocks.Now()
	if err != nil {
		return err
	}
	byHash := make(map[uint64]netip.AddrPort, len(c.backends))
	for _, b := range c.backends {
		byHash[b.Hash] = b.Addr
	}
	services := make(map[uint64]*stored, len(c.services))
	for _, s := range c.services {
		services[s.hash] = s
	}
	return affinity.Each(r.affinity, func(e affinity.Entry) error {
		backend, ok := byHash[e.BackendHash]
		s := services[e.ServiceHash]
		if !ok || s == nil || e.Expires <= now {
			return nil
		}
		return yield(dataplane.Client{
			Service: s.ID,
			Client:  e.Client,
			Backend: backend,
			Assured: e.Assured,
			Expires: time.Duration(e.Expires-now) * time.Second / time.Duration(clocks.Hz),
		})
	})
}
