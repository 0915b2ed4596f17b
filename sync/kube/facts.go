// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
)

// Facts are what the objects say beside the services: what health checks and metrics
// tell of this machine. They must not be changed.
type Facts struct {
	// HealthChecks are all there are, by name and family.
	HealthChecks []HealthCheck
	// Eligible says that load balancers may choose this machine: its Node is known, is
	// not being deleted, and the cluster autoscaler has not marked it for that.
	Eligible bool
	// NoLocal counts what is not served here, by family.
	NoLocal map[lb.Family]NoLocal

	// What follows is since the Facts before. Services and Slices count changes of
	// objects, Triggers are those of the slices among them, the oldest first.
	Services, Slices int
	Triggers         []Trigger
}

// HealthCheck is a Service whose load balancers ask each machine whether it has
// endpoints: of type LoadBalancer with externalTrafficPolicy: Local. One that has
// addresses of both families is two.
type HealthCheck struct {
	Service Object
	Family  lb.Family
	// Port is spec.healthCheckNodePort.
	Port uint16
	// Local is how many addresses have ready endpoints on this machine. Those that
	// terminate are not ready, although they may still serve.
	Local int
}

// NoLocal counts services of a family that have endpoints, but none on this machine
// where their policy wants one: internal and external traffic.
type NoLocal struct{ Internal, External int }

// Trigger is when something happened that made the control plane change an
// EndpointSlice of a family.
type Trigger struct {
	Family lb.Family
	At     time.Time
}

// doomedTaint is what the cluster autoscaler marks Nodes with that it will delete.
const doomedTaint = "ToBeDeletedByClusterAutoscaler"

func eligible(o *corev1.Node) bool {
	return o.DeletionTimestamp.IsZero() &&
		!slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == doomedTaint })
}

// healthPort returns 0 for a Service of which nobody asks.
func healthPort(o *corev1.Service) uint16 {
	if o.Spec.Type != corev1.ServiceTypeLoadBalancer || o.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return uint16(o.Spec.HealthCheckNodePort)
}

// triggered returns the zero time if the slice does not say, or not so that it can be
// understood.
func triggered(o *discoveryv1.EndpointSlice) time.Time {
	t, err := time.Parse(time.RFC3339Nano, o.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return time.Time{}
	}
	return t
}

// facts are the store's.
type facts struct {
	checks   map[*entry][]HealthCheck
	list     []HealthCheck // all of checks, unless stale
	stale    bool
	eligible bool
	noLocal  map[lb.Family]NoLocal

	news             bool // since the last Facts
	services, slices int
	triggers         map[owner][]time.Time
}

// owner is whose slices the triggers were of.
type owner struct {
	service types.NamespacedName
	family  lb.Family
}

func newFacts() facts {
	return facts{checks: make(map[*entry][]HealthCheck), noLocal: make(map[lb.Family]NoLocal), triggers: make(map[owner][]time.Time)}
}

// Facts returns what is known as of the last Flush, and whether any of it is news.
func (s *Store) Facts() (out Facts, news bool) {
	f := &s.facts
	if f.stale {
		f.list, f.stale = nil, false
		for _, checks := range f.checks {
			f.list = append(f.list, checks...)
		}
		slices.SortFunc(f.list, HealthCheck.compare)
	}
	out = Facts{HealthChecks: f.list, Eligible: f.eligible, NoLocal: maps.Clone(f.noLocal), Services: f.services, Slices: f.slices}
	for o, times := range f.triggers {
		for _, t := range times {
			out.Triggers = append(out.Triggers, Trigger{o.family, t})
		}
	}
	slices.SortFunc(out.Triggers, func(a, b Trigger) int { return a.At.Compare(b.At) })
	news, f.news, f.services, f.slices = f.news, false, 0, 0
	f.triggers = make(map[owner][]time.Time) // to clear one that was large costs as much each time
	return out, news
}

func (f *facts) setEligible(is bool) {
	f.news = f.news || is != f.eligible
	f.eligible = is
}

func (f *facts) serviceChanged() {
	f.services++
	f.news = true
}

// sliceChanged takes nil for a slice that is not there. The time on one that goes is that
// of its last change, so nothing is known of when that was triggered which ends it; and a
// time that was there before is of a change before.
func (f *facts) sliceChanged(old, next *slice) {
	f.slices++
	f.news = true
	switch {
	case next == nil:
		delete(f.triggers, owner{old.service, old.family})
	case !next.triggered.IsZero() && (old == nil || !old.triggered.Equal(next.triggered)):
		o := owner{next.service, next.family}
		f.triggers[o] = append(f.triggers[o], next.triggered)
	}
}

// built takes down what a Service is like now. services are what it has in the snapshot.
func (f *facts) built(e *entry, services []*lb.Service) {
	checks := e.healthChecks()
	if !slices.Equal(f.checks[e], checks) {
		if f.checks[e] = checks; checks == nil {
			delete(f.checks, e)
		}
		f.stale, f.news = true, true
	}
	var lacks [2]NoLocal
	for _, svc := range services {
		n := &lacks[familyIndex(svc.ID.Family)]
		*n = n.plus(noLocal(svc), 1)
	}
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		if i := familyIndex(family); lacks[i] != e.noLocal[i] {
			f.noLocal[family] = f.noLocal[family].plus(lacks[i], 1).plus(e.noLocal[i], -1)
			f.news = true
		}
	}
	e.noLocal = lacks
}

func (n NoLocal) plus(m NoLocal, times int) NoLocal {
	return NoLocal{n.Internal + times*m.Internal, n.External + times*m.External}
}

func (c HealthCheck) compare(d HealthCheck) int {
	return cmp.Or(cmp.Compare(c.Service.Namespace, d.Service.Namespace), cmp.Compare(c.Service.Name, d.Service.Name), cmp.Compare(c.Family, d.Family))
}

// healthChecks returns those of a Service: nil if nobody asks.
func (e *entry) healthChecks() (out []HealthCheck) {
	if e.svc == nil || e.svc.healthPort == 0 {
		return nil
	}
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		served := false
		ready := make(map[netip.Addr]bool)
		for _, p := range e.svc.plans {
			if p.model.ID.Family != family {
				continue
			}
			served = true
			for _, c := range p.candidates(e.slices, nil) {
				if c.ready && c.local {
					ready[c.addr] = true
				}
			}
		}
		if served {
			out = append(out, HealthCheck{e.svc.object, family, e.svc.healthPort, len(ready)})
		}
	}
	return out
}

// noLocal returns at most one of each.
func noLocal(svc *lb.Service) (n NoLocal) {
	for _, f := range svc.Frontends {
		switch f.Policy {
		case lb.PolicyLocal:
			n.Internal = 1
		case lb.PolicyLocalExternal:
			n.External = 1
		}
	}
	if n == (NoLocal{}) {
		return n // as most
	}
	some := slices.ContainsFunc(svc.Backends, func(b lb.Backend) bool { return b.Outside != lb.Cluster|lb.Local })
	here := slices.ContainsFunc(svc.Backends, func(b lb.Backend) bool { return b.Outside&lb.Local == 0 })
	if !some || here {
		return NoLocal{}
	}
	return n
}
