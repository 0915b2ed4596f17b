// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
)

const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

// service is what is kept of a Service object. It is not changed.
type service struct {
	object      Object
	created     time.Time
	zoneWeights map[string]uint16
	healthPort  uint16 // where load balancers ask; 0: nowhere
	plans       []*plan
	problems    []Problem
}

// plan is one port of a Service, of one family: a service of the model, without
// what depends on other objects.
type plan struct {
	model    lb.Service // without frontends and backends
	port     string     // the name by which EndpointSlices have it
	protocol lb.Protocol
	claims   []claim
	// vips are those of load balancers, if SourceRanges hold for them.
	vips []netip.Prefix
}

// claim is a frontend that a plan has, unless it is another's already.
type claim struct {
	lb.Frontend
	clusterIP bool
}

// readService returns nil for a Service that is not served.
func (t *Translation) readService(o *corev1.Service) *service {
	if !t.serves(o) {
		return nil
	}
	s := &service{
		object:  Object{"v1", "Service", o.Namespace, o.Name, string(o.UID)},
		created: o.CreationTimestamp.Time, healthPort: healthPort(o),
	}
	r := serviceReader{t: t, o: o, s: s}
	scheduler, flags := r.scheduler()
	r.model = lb.Service{Scheduler: scheduler, SchedulerFlags: flags, Affinity: affinity(o), HostSockets: r.hostSockets()}
	s.zoneWeights = r.zoneWeights()
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		if ip, ok := r.clusterIP(family); ok {
			r.readFamily(family, ip)
		}
	}
	return s
}

// serves is what the API server is asked to select by, and more.
func (t *Translation) serves(o *corev1.Service) bool {
	name, labelled := o.Labels[proxyNameLabel]
	if labelled != (t.ProxyName != "") || name != t.ProxyName {
		return false
	}
	return o.Spec.Type != corev1.ServiceTypeExternalName && o.Spec.ClusterIP != "" && o.Spec.ClusterIP != corev1.ClusterIPNone
}

func affinity(o *corev1.Service) lb.Affinity {
	if o.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return lb.Affinity{}
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := o.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return lb.Affinity{Timeout: time.Duration(seconds) * time.Second, Lapses: true}
}

// serviceReader reads one object.
type serviceReader struct {
	t     *Translation
	o     *corev1.Service
	s     *service
	model lb.Service // what all plans have
}

// problem tells each once, although what is read for both families is read twice.
func (r *serviceReader) problem(reason, format string, args ...any) {
	p := newProblem(r.s.object, reason, format, args...)
	if !slices.Contains(r.s.problems, p) {
		r.s.problems = append(r.s.problems, p)
	}
}

// clusterIP returns that of a family. Without one the service has nothing of the
// family, whatever else the object says.
func (r *serviceReader) clusterIP(family lb.Family) (netip.Addr, bool) {
	ips := r.o.Spec.ClusterIPs
	if len(r.o.Spec.IPFamilies) == 0 || len(ips) == 0 {
		ips = []string{r.o.Spec.ClusterIP}
	}
	for i, s := range ips {
		word := corev1.IPv4Protocol
		if family == lb.IPv6 {
			word = corev1.IPv6Protocol
		}
		if i < len(r.o.Spec.IPFamilies) && r.o.Spec.IPFamilies[i] != word {
			continue
		}
		if ip, err := parseVIP(s); err == nil && lb.FamilyOf(ip) == family {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (r *serviceReader) readFamily(family lb.Family, clusterIP netip.Addr) {
	f := r.addresses(family)
	f.clusterIP = clusterIP
	for i := range r.o.Spec.Ports {
		port := &r.o.Spec.Ports[i]
		p := r.plan(family, port)
		if p != nil && !slices.ContainsFunc(r.s.plans, func(q *plan) bool { return q.model.ID == p.model.ID }) {
			p.claims = r.claims(f, port, p.protocol)
			if len(f.ranges) > 0 && len(f.balancers) > 0 {
				p.model.SourceRanges = f.ranges
				p.vips = hosts(f.balancers)
			}
			r.s.plans = append(r.s.plans, p)
		}
	}
}

func (r *serviceReader) plan(family lb.Family, port *corev1.ServicePort) *plan {
	protocol, err := lb.ParseProtocol(protocolWord(port.Protocol))
	if err != nil {
		r.problem(ReasonInvalidPort, "Port %d is not served: %v.", port.Port, err)
		return nil
	}
	p := &plan{model: r.model, port: port.Name, protocol: protocol}
	p.model.ID = lb.ServiceID{Name: serviceName(r.o, port.Name, protocol), Family: family}
	if p.model.Affinity.Enabled() {
		p.model.Affinity.Prefix = uint8(family.Bits())
	}
	return p
}

func protocolWord(p corev1.Protocol) string {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return string(p)
}

// serviceName is "namespace/name:port/TCP", without ":port" if that has no name.
func serviceName(o *corev1.Service, port string, protocol lb.Protocol) string {
	var b strings.Builder
	b.WriteString(o.Namespace + "/" + o.Name)
	if port != "" {
		b.WriteString(":" + port)
	}
	b.WriteString("/" + protocol.String())
	return b.String()
}

func keyOf(o interface {
	GetNamespace() string
	GetName() string
}) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}
