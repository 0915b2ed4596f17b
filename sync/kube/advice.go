// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// advise warns, with the first complete state, of a configuration that may not do what
// it is for.
func (s *Source) advise(all *lb.Snapshot) {
	if server, ok := serverAddr(s.opts.Config.Host); ok {
		for svc := range all.All() {
			if slices.ContainsFunc(svc.Frontends, func(f lb.Frontend) bool { return f.Addr == server && !f.IsNodePort() }) {
				s.opts.Log.Warn("the API server is reached by a Service's address, which only waggle serves here: after a restart of the machine it cannot be; write the control plane's own endpoint into the kubeconfig, or --master",
					"address", server.String(), "service", svc.ID.Name)
			}
		}
	}
	n, pods := &s.store.node, s.opts.DetectLocal.ClusterCIDRs
	if s.opts.DetectLocal.Mode != ClusterCIDR || len(pods) == 0 || n.primary == [2]netip.Addr{} {
		return
	}
	if !slices.ContainsFunc(pods, func(p netip.Prefix) bool { return n.address(lb.FamilyOf(p.Addr())).IsValid() }) {
		s.opts.Log.Warn("no network of clusterCIDR is of a family in which this machine's Node has an address: its pods are not told from others",
			"cluster_cidr", pods, "node", n.primary)
	}
}

// serverAddr reads the address out of a client's host, "https://192.0.2.1:6443" say;
// false if it has a name.
func serverAddr(host string) (netip.AddrPort, bool) {
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	u, err := url.Parse(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if text := u.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			return netip.AddrPort{}, false
		}
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), err == nil
}
