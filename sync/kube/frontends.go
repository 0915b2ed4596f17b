// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/lb"
)

// addresses are those of a Service in one family.
type addresses struct {
	family              lb.Family
	clusterIP           netip.Addr
	balancers, external []netip.Addr
	ranges              []netip.Prefix // from where balancers take connections; none: from everywhere
}

func (r *serviceReader) addresses(family lb.Family) *addresses {
	a := &addresses{family: family}
	for _, in := range r.o.Status.LoadBalancer.Ingress {
		if in.IP == "" || in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue // what comes through a proxy must pass it in the cluster too
		}
		if ip, ok := r.vip(family, "Load balancer address", in.IP); ok {
			a.balancers = append(a.balancers, ip)
		}
	}
	for _, s := range r.o.Spec.ExternalIPs {
		if s == "" {
			continue
		}
		ip, ok := r.vip(family, "External IP", s)
		switch {
		case !ok:
		case !contains(r.t.ExternalIPs, ip):
			r.problem(ReasonExternalIPNotAllowed, "External IP %s is not served: waggle serves those that its flag --external-ips allows.", ip)
		default:
			a.external = append(a.external, ip)
		}
	}
	a.ranges = r.sourceRanges(family)
	return a
}

// vip reads an address, if it is of the family. What is none is a problem.
func (r *serviceReader) vip(family lb.Family, what, s string) (netip.Addr, bool) {
	ip, err := parseVIP(s)
	if err != nil {
		r.problem(ReasonInvalidAddress, "%s %s is not served: %v.", what, s, err)
		return ip, false
	}
	return ip, lb.FamilyOf(ip) == family
}

// sourceRanges returns loadBalancerSourceRanges of the family, or nil if they
// restrict nothing.
func (r *serviceReader) sourceRanges(family lb.Family) (out []netip.Prefix) {
	for _, s := range r.o.Spec.LoadBalancerSourceRanges {
		s = strings.TrimSpace(s)
		p, err := parsePrefix(s)
		if err != nil {
			r.problem(ReasonInvalidSourceRange, "Source range %s is ignored: %v.", s, err)
			continue
		}
		if lb.FamilyOf(p.Addr()) != family {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p)
	}
	return masked(out)
}

func hosts(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// claims returns the frontends of a port. Where two are at one address, the
// first stays: a load balancer's address may be restricted, so it comes before
// the same as an external IP.
func (r *serviceReader) claims(a *addresses, port *corev1.ServicePort, protocol lb.Protocol) (out []claim) {
	internal, external := r.frontends()
	add := func(f lb.Frontend, ip netip.Addr, port int32) {
		f.Addr, f.Protocol = netip.AddrPortFrom(ip, uint16(port)), protocol
		if !slices.ContainsFunc(out, func(c claim) bool { return c.Key() == f.Key() }) {
			out = append(out, claim{f, ip == a.clusterIP})
		}
	}
	add(internal, a.clusterIP, port.Port)
	balancer := external
	balancer.Restricted = len(a.ranges) > 0
	for _, ip := range a.balancers {
		add(balancer, ip, port.Port)
	}
	for _, ip := range a.external {
		add(external, ip, port.Port)
	}
	if port.NodePort != 0 {
		add(external, unspecified(a.family), port.NodePort)
	}
	slices.SortFunc(out, func(a, b claim) int { return a.Compare(b.Frontend) })
	return out
}

func unspecified(f lb.Family) netip.Addr {
	if f == lb.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// frontends returns how internal and external traffic is served.
func (r *serviceReader) frontends() (internal, external lb.Frontend) {
	spec := &r.o.Spec
	if p := spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		internal.Policy = lb.PolicyLocal
	}
	internal.Masquerade = lb.MasqueradeOutsiders // if pods can be told, see Store
	if r.t.MasqueradeAll {
		internal.Masquerade = lb.MasqueradeAlways
	}
	external.Masquerade = lb.MasqueradeAlways
	accessible := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer || len(spec.ExternalIPs) > 0
	if accessible && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		external.Policy, external.Masquerade = lb.PolicyLocalExternal, lb.MasqueradeNode
	}
	return internal, external
}
