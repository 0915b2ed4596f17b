// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"time"
	"unique"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
)

const headlessLabel = "service.kubernetes.io/headless"

// slice is what is kept of an EndpointSlice. It is not changed.
type slice struct {
	name      string
	service   types.NamespacedName
	family    lb.Family
	ports     []slicePort
	endpoints []endpoint
	weight    int32     // of WeightAnnotation; noWeight without
	triggered time.Time // when what it says was triggered; zero if it does not say
	problems  []Problem
}

const noWeight = -1

type slicePort struct {
	name     string
	protocol lb.Protocol
	number   uint16
}

// endpoint is one with conditions as the API defines them where it leaves them out.
type endpoint struct {
	addr        netip.Addr
	ready       bool
	serving     bool
	terminating bool
	local       bool // on this machine
	nodeHints   bool // it has hints for nodes,
	forThisNode bool // and one is for this
	zone        string
	forZones    []string
}

// readSlice returns nil for one that says nothing of a service that may be served.
func (t *Translation) readSlice(o *discoveryv1.EndpointSlice) *slice {
	name := o.Labels[discoveryv1.LabelServiceName]
	_, headless := o.Labels[headlessLabel]
	_, others := o.Labels[proxyNameLabel]
	if name == "" || headless || others && t.ProxyName == "" {
		return nil
	}
	s := &slice{name: o.Name, service: types.NamespacedName{Namespace: o.Namespace, Name: name}, weight: noWeight, triggered: triggered(o)}
	switch o.AddressType {
	case discoveryv1.AddressTypeIPv4:
		s.family = lb.IPv4
	case discoveryv1.AddressTypeIPv6:
		s.family = lb.IPv6
	default:
		return nil
	}
	r := sliceReader{s, Object{"discovery.k8s.io/v1", "EndpointSlice", o.Namespace, o.Name, string(o.UID)}}
	if text, ok := o.Annotations[WeightAnnotation]; ok {
		r.weight(text)
	}
	r.readPorts(o.Ports)
	s.endpoints = make([]endpoint, 0, len(o.Endpoints))
	for i := range o.Endpoints {
		if e, ok := t.readEndpoint(&o.Endpoints[i], s.family); ok {
			s.endpoints = append(s.endpoints, e)
		}
	}
	return s
}

type sliceReader struct {
	*slice
	object Object
}

func (r *sliceReader) problem(reason, format string, args ...any) {
	r.problems = append(r.problems, newProblem(r.object, reason, format, args...))
}

func (r *sliceReader) weight(text string) {
	w, err := parseWeight(text)
	if err != nil {
		r.problem(ReasonInvalidAnnotation, "Annotation %s: %v. It is ignored.", WeightAnnotation, err)
		return
	}
	r.slice.weight = int32(w)
}

func (r *sliceReader) readPorts(ports []discoveryv1.EndpointPort) {
	for _, p := range ports {
		if p.Name == nil {
			continue
		}
		protocol := lb.TCP
		if p.Protocol != nil {
			var err error
			if protocol, err = lb.ParseProtocol(protocolWord(*p.Protocol)); err != nil {
				r.problem(ReasonInvalidPort, "Port %q is ignored: %v.", *p.Name, err)
				continue
			}
		}
		if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			r.problem(ReasonInvalidPort, "Port %q is ignored: it has no number from 1 to 65535.", *p.Name)
			continue
		}
		r.ports = append(r.ports, slicePort{unique.Make(*p.Name).Value(), protocol, uint16(*p.Port)})
	}
}

func (t *Translation) readEndpoint(o *discoveryv1.Endpoint, family lb.Family) (e endpoint, ok bool) {
	if len(o.Addresses) == 0 {
		return e, false
	}
	addr, err := parseAddr(o.Addresses[0])
	if err != nil || addr.IsUnspecified() || lb.FamilyOf(addr) != family {
		return e, false
	}
	e = endpoint{
		addr:        addr,
		ready:       orElse(o.Conditions.Ready, true),
		serving:     orElse(o.Conditions.Serving, true),
		terminating: orElse(o.Conditions.Terminating, false),
		local:       o.NodeName != nil && *o.NodeName == t.NodeName,
	}
	if o.Zone != nil {
		e.zone = unique.Make(*o.Zone).Value()
	}
	if o.Hints == nil {
		return e, true
	}
	for _, n := range o.Hints.ForNodes {
		e.nodeHints = true
		e.forThisNode = e.forThisNode || n.Name == t.NodeName
	}
	for _, z := range o.Hints.ForZones {
		e.forZones = append(e.forZones, unique.Make(z.Name).Value())
	}
	return e, true
}

func orElse(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// at returns the number of a port.
func (s *slice) at(name string, protocol lb.Protocol) (uint16, bool) {
	for _, p := range s.ports {
		if p.name == name && p.protocol == protocol {
			return p.number, true
		}
	}
	return 0, false
}

// hinted reports whether it has hints for zones.
func (s *slice) hinted() bool {
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return len(e.forZones) > 0 })
}
