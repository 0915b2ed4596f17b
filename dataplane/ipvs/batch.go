// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"github.com/waggle-lb/waggle/lb"
)

// batch is what one Apply has to look at: nothing but what changed.
type batch struct {
	targets map[key]target
	// refused are services that keep what they have, and why; untouched, those of
	// which the kernel has just that.
	refused   map[lb.ServiceID]error
	untouched map[lb.ServiceID]bool
}

// newBatch collects what is wanted at each key of the services that differ.
func (d *Dataplane) newBatch(snap *lb.Snapshot, diff *lb.Diff) *batch {
	b := &batch{targets: make(map[key]target), refused: make(map[lb.ServiceID]error), untouched: make(map[lb.ServiceID]bool)}
	wanted := make(map[lb.ServiceID][]*virtual)
	at := d.nodeAddresses()
	want := func(svc *lb.Service) {
		if err := d.Supports(svc); err != nil {
			b.refused[svc.ID] = err
			b.untouched[svc.ID] = !d.pending[svc.ID]
			return
		}
		wanted[svc.ID] = render(svc, at)
	}
	for _, svc := range diff.Added {
		want(svc)
	}
	for _, c := range diff.Changed {
		if d.pending[c.New.ID] || !c.Old.Equal(c.New) {
			want(c.New)
		}
	}
	for _, svc := range diff.Removed {
		wanted[svc.ID] = nil
	}
	for id := range d.pending {
		if _, ok := wanted[id]; ok || b.refused[id] != nil {
			continue
		}
		if svc := snap.Service(id); svc != nil {
			want(svc)
		} else {
			wanted[id] = nil
		}
	}
	for d.block(b, wanted) {
	}
	d.aim(b, wanted)
	return b
}

// block refuses a service that wants what a refused one keeps, and says whether it
// found one: that keeps what it has in turn.
func (d *Dataplane) block(b *batch, wanted map[lb.ServiceID][]*virtual) bool {
	for id, list := range wanted {
		for _, v := range list {
			h := d.state.held[v.key]
			if h == nil || h.owner == id || h.gone {
				continue
			}
			if _, yields := wanted[h.owner]; !yields && v.terms&nodePort == 0 && h.terms&nodePort == 0 {
				b.refused[id] = &lb.ConflictError{First: h.owner, Second: id, Frontend: lb.Frontend{Addr: v.addr, Protocol: v.proto}}
				b.untouched[id] = !d.pending[id]
				delete(wanted, id)
				return true
			}
		}
	}
	return false
}

// aim makes targets of what is wanted, and of what is held and is not.
func (d *Dataplane) aim(b *batch, wanted map[lb.ServiceID][]*virtual) {
	for id := range wanted {
		for k := range d.state.owned[id] {
			b.targets[k] = target{owner: id}
		}
	}
	for id, list := range wanted {
		for _, v := range list {
			if t := b.targets[v.key]; t.want != nil && v.terms&nodePort != 0 {
				continue // a VIP comes before a node port
			}
			if h := d.state.held[v.key]; h != nil && h.owner != id && !h.gone && v.terms&nodePort != 0 {
				if _, yields := wanted[h.owner]; !yields {
					continue
				}
			}
			b.targets[v.key] = target{owner: id, want: v}
		}
	}
}
