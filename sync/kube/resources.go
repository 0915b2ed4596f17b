// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// newWatchers are of all that a source follows. What they ask the API server not to
// send, the store would leave out.
func (s *Source) newWatchers(c *clients) []*watcher {
	t := &s.opts.Translation
	services, endpoints := "!"+proxyNameLabel, "!"+headlessLabel
	if t.ProxyName != "" {
		services = proxyNameLabel + "=" + t.ProxyName
	} else {
		endpoints += ",!" + proxyNameLabel
	}
	all := []*watcher{
		{
			client: c.core, resource: "services", object: &corev1.Service{}, newList: func() runtime.Object { return &corev1.ServiceList{} },
			labels: services, fields: "spec.clusterIP!=" + corev1.ClusterIPNone, dispensable: true, sink: s.serviceSink(),
		},
		{
			client: c.discovery, resource: "endpointslices", object: &discoveryv1.EndpointSlice{}, newList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
			labels: endpoints, sink: s.sliceSink(),
		},
		{
			client: c.core, resource: "nodes", object: &corev1.Node{}, newList: func() runtime.Object { return &corev1.NodeList{} },
			fields: fields.OneTermEqualSelector("metadata.name", t.NodeName).String(), sink: s.nodeSink(),
		},
		{
			client: c.networking, resource: "servicecidrs", object: &networkingv1.ServiceCIDR{}, newList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
			missing: func() { s.queue.put(func(s *Source) { s.ranges = true }) }, sink: s.rangeSink(),
		},
	}
	h := &health{log: s.opts.Log, failing: make(map[string]bool)}
	for _, w := range all {
		w.health, w.log = h, s.opts.Log
	}
	return all
}

func (s *Source) serviceSink() *sink {
	return &sink{
		queue: s.queue,
		set: func(object any) func(*Store) {
			o := object.(*corev1.Service)
			key, svc := keyOf(o), s.opts.readService(o)
			return func(st *Store) { st.setService(key, svc) }
		},
		remove: (*Store).DeleteService,
		keys: func(st *Store) (out []types.NamespacedName) {
			for key, e := range st.services {
				if e.svc != nil {
					out = append(out, key)
				}
			}
			return out
		},
		listed: func(s *Source) { s.services = true },
	}
}

func (s *Source) sliceSink() *sink {
	return &sink{
		queue: s.queue,
		set: func(object any) func(*Store) {
			o := object.(*discoveryv1.EndpointSlice)
			key, next := keyOf(o), s.opts.readSlice(o)
			return func(st *Store) { st.setSlice(key, next) }
		},
		remove: (*Store).DeleteSlice,
		keys:   func(st *Store) []types.NamespacedName { return slices.Collect(maps.Keys(st.slices)) },
		listed: func(s *Source) { s.slices = true },
	}
}

func (s *Source) nodeSink() *sink {
	return &sink{
		queue: s.queue,
		set: func(object any) func(*Store) {
			o := object.(*corev1.Node)
			return func(st *Store) { st.SetNode(o) }
		},
		remove: func(st *Store, key types.NamespacedName) { st.DeleteNode(key.Name) },
		keys:   func(st *Store) []types.NamespacedName { return []types.NamespacedName{{Name: st.t.NodeName}} },
		listed: func(*Source) {},
	}
}

func (s *Source) rangeSink() *sink {
	return &sink{
		queue: s.queue,
		set: func(object any) func(*Store) {
			o := object.(*networkingv1.ServiceCIDR)
			return func(st *Store) { st.SetServiceCIDR(o) }
		},
		remove: func(st *Store, key types.NamespacedName) { st.DeleteServiceCIDR(key.Name) },
		keys: func(st *Store) (out []types.NamespacedName) {
			for name := range st.ranges {
				out = append(out, types.NamespacedName{Name: name})
			}
			return out
		},
		listed: func(s *Source) { s.ranges = true },
	}
}
