// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"slices"

	"github.com/waggle-lb/waggle/lb"
)

// claims are who wants each frontend, the one who has it first.
type claims map[lb.Frontend][]claimant

// claimant is a plan that wants a frontend.
type claimant struct {
	by        *entry
	svc       *service
	id        lb.ServiceID
	clusterIP bool
}

// compare orders claimants: no external address takes the cluster IP of another
// Service, and among equals the oldest Service wins, then the first by name.
func (c claimant) compare(d claimant) int {
	if c.clusterIP != d.clusterIP {
		if c.clusterIP {
			return -1
		}
		return 1
	}
	return cmp.Or(c.svc.created.Compare(d.svc.created), cmp.Compare(c.by.key.Namespace, d.by.key.Namespace),
		cmp.Compare(c.by.key.Name, d.by.key.Name), c.id.Compare(d.id))
}

// add enters all frontends of a service. moved is called for each entry for which
// a frontend may have a new owner.
func (x claims) add(e *entry, svc *service, moved func(*entry)) {
	for _, p := range svc.plans {
		for _, c := range p.claims {
			key, mine := c.Key(), claimant{e, svc, p.model.ID, c.clusterIP}
			all := x[key]
			at, _ := slices.BinarySearchFunc(all, mine, claimant.compare)
			if at == 0 {
				tell(all, moved)
			}
			x[key] = slices.Insert(all, at, mine)
		}
	}
}

// remove undoes add.
func (x claims) remove(svc *service, moved func(*entry)) {
	for _, p := range svc.plans {
		for _, c := range p.claims {
			key := c.Key()
			all := x[key]
			at := slices.IndexFunc(all, func(k claimant) bool { return k.svc == svc && k.id == p.model.ID })
			if at < 0 {
				continue
			}
			if len(all) == 1 {
				delete(x, key)
				continue
			}
			all = slices.Delete(all, at, at+1)
			x[key] = all
			if at == 0 {
				tell(all, moved)
			}
		}
	}
}

func tell(all []claimant, moved func(*entry)) {
	for _, c := range all {
		moved(c.by)
	}
}

// owner returns who has a frontend that somebody claims.
func (x claims) owner(f lb.Frontend) claimant { return x[f.Key()][0] }
