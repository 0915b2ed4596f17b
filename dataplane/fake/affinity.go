// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// How affinity outlives its timeout while a flow lives: by extension, decided when
// less than ahead is left.
const (
	extension = time.Minute
	ahead     = 5 * time.Second
)

// client is whom a service keeps at a backend: a client, or a network of them.
type client struct {
	addr    netip.Addr // its first bits
	service lb.ServiceID
}

// kept is where a client goes, and until when.
type kept struct {
	at      netip.AddrPort // a backend's Addr
	expires time.Duration
}

// clientOf is the one that an address belongs to.
func (s *service) clientOf(addr netip.Addr) client {
	network, err := addr.Prefix(int(s.svc.Affinity.Prefix))
	if err == nil { // Supports takes no longer prefix
		addr = network.Addr()
	}
	return client{addr, s.svc.ID}
}

// choose finds the backend of a new flow in a pool: the one that its client is kept at,
// however loaded, else a pick; nil: nobody can serve.
func (k *Kernel) choose(p Packet, s *service, which lb.Pools) *backend {
	affinity := s.svc.Affinity
	if !affinity.Enabled() {
		return s.pick(p, which)
	}
	who := s.clientOf(p.Src.Addr())
	b := k.keptAt(who, s, which)
	if b == nil {
		b = s.pick(p, which)
	}
	if b != nil {
		k.affinity[who] = &kept{b.in.Addr, k.now + affinity.Timeout}
	}
	return b
}

// keptAt returns the backend that a client is kept at. What leads to one that takes
// nothing of the pool any more is gone, also if that one is back later.
func (k *Kernel) keptAt(who client, s *service, which lb.Pools) *backend {
	at := k.affinity[who]
	if at == nil || k.now >= at.expires {
		return nil
	}
	b := s.backends[at.at]
	if b != nil && b.serves() && b.in.Outside&which == 0 && (b.in.Weight > 0 || s.svc.Affinity.Quiesced) {
		return b
	}
	delete(k.affinity, who)
	return nil
}

// prolong puts off the end of what keeps a flow's client. Nothing is deleted at its
// end: a flow may still put that off.
func (k *Kernel) prolong(f *flow) {
	if !f.affinity || f.backend.owner.svc.Affinity.Lapses {
		return
	}
	at := k.affinity[f.backend.owner.clientOf(f.client.Addr())]
	if at == nil || at.at != f.backend.in.Addr || at.expires > k.now+ahead {
		return
	}
	at.expires = max(at.expires, k.now) + extension
}
