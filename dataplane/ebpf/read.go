// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/prefixes"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/vips"
)

// reader reads maps that others write. It needs no right to write and no
// memory mapping. Safe for concurrent use.
type reader struct {
	services, backends, vips, serviceInfo *cilium.Map
	sources                               *cilium.Map
	load, stats, drops, meta              *cilium.Map
	affinity                              *cilium.Map
	flows                                 flows.Table
	walk                                  loader.SocketWalk
	names                                 *names
}

// contents is what the configuration maps say, put together but not judged.
type contents struct {
	services map[uint32]*stored // by index
	backends []storedBackend
}

// stored is one used index of the map services.
type stored struct {
	info.Service
	hash      uint64
	pools     [len(bothPools)]services.Pool
	settings  services.Settings
	frontends []lb.Frontend
	sources   []netip.Prefix
	backends  []storedBackend // those in the service, in list order
}

// live tells a service from one that only waits for its backends to drain.
func (s *stored) live() bool { return s.pools[0].Rule != 0 }

// members is how many backends a pool has.
func (s *stored) members(pool lb.Pools) (n int) {
	for _, b := range s.backends {
		if b.Outside&pool == 0 {
			n++
		}
	}
	return n
}

type storedBackend struct {
	id uint32
	backends.Record
}

func (r *reader) contents() (*contents, error) {
	byHash := make(map[uint64]info.Service)
	err := info.Services{Map: r.serviceInfo}.Each(func(hash uint64, s info.Service) { byHash[hash] = s })
	if err != nil {
		return nil, err
	}
	c := &contents{services: make(map[uint32]*stored)}
	err = services.Each(r.services, func(i uint32, hash uint64, cluster, local services.Pool, set services.Settings) {
		if s, ok := byHash[hash]; ok && s.ID.Hash() == hash {
			c.services[i] = &stored{Service: s, hash: hash, pools: [...]services.Pool{cluster, local}, settings: set}
		}
	})
	if err != nil {
		return nil, err
	}
	err = vips.Each(r.vips, func(f lb.Frontend, i uint32) {
		if s := c.services[i]; s != nil {
			s.frontends = append(s.frontends, f)
		}
	})
	if err != nil {
		return nil, err
	}
	err = prefixes.Sources{Map: r.sources}.Each(func(i uint32, p netip.Prefix) {
		if s := c.services[i]; s != nil {
			s.sources = append(s.sources, p)
		}
	})
	if err != nil {
		return nil, err
	}
	err = backends.Each(r.backends, func(id uint32, b backends.Record) {
		s := c.services[b.Service]
		// A record is half-written while its hash is another's.
		if s == nil || b.Hash != lb.BackendHash(s.hash, b.Addr) {
			return
		}
		c.backends = append(c.backends, storedBackend{id, b})
		if b.State != backends.Draining {
			s.backends = append(s.backends, storedBackend{id, b})
		}
	})
	if err != nil {
		return nil, err
	}
	for _, s := range c.services {
		slices.SortFunc(s.frontends, lb.Frontend.Compare)
		slices.SortFunc(s.sources, netip.Prefix.Compare)
		slices.SortFunc(s.backends, func(a, b storedBackend) int {
			return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.id, b.id))
		})
	}
	return c, nil
}

// snapshot returns the services that packets find.
func (c *contents) snapshot() (*lb.Snapshot, error) {
	var all []*lb.Service
	for _, s := range c.services {
		if !s.live() {
			continue
		}
		svc := &lb.Service{ID: s.ID, Scheduler: s.Scheduler, SchedulerFlags: s.Flags, Frontends: s.frontends, SourceRanges: s.sources}
		applySettings(s.settings, svc)
		for _, b := range s.backends {
			svc.Backends = append(svc.Backends, lb.Backend{
				Addr: b.Addr, Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Unhealthy: b.State == backends.Unhealthy, Outside: b.Outside,
			})
		}
		all = append(all, svc)
	}
	return lb.NewSnapshot(all...)
}

// Read returns what the kernel holds. While an Apply is under way it may show
// parts of both states.
func (r *reader) Read() (*lb.Snapshot, error) {
	c, err := r.contents()
	if err != nil {
		return nil, err
	}
	snap, err := c.snapshot()
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return snap, nil
}
