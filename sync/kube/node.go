// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/lb"
)

// The words of Translation.NodePortAddresses.
const (
	primaryWord   = "primary"
	localhostWord = "localhost"
	allWord       = "all"
)

// node is what is kept of this machine's Node. The zero node is one not seen yet.
type node struct {
	zone     string
	primary  [2]netip.Addr // IPv4, IPv6; invalid if it has none
	podCIDRs []netip.Prefix
}

func (t *Translation) readNode(o *corev1.Node) *node {
	n := &node{zone: o.Labels[corev1.LabelTopologyZone]}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range o.Status.Addresses {
			ip, err := parseAddr(a.Address)
			if a.Type != kind || err != nil || ip.IsUnspecified() || ip.IsLoopback() {
				continue
			}
			if at := &n.primary[familyIndex(lb.FamilyOf(ip))]; !at.IsValid() {
				*at = ip
			}
		}
	}
	if t.Address.IsValid() {
		n.primary[familyIndex(lb.FamilyOf(t.Address))] = t.Address
	}
	cidrs := o.Spec.PodCIDRs
	if len(cidrs) == 0 && o.Spec.PodCIDR != "" {
		cidrs = []string{o.Spec.PodCIDR}
	}
	n.podCIDRs = readPrefixes(cidrs)
	return n
}

func readPrefixes(list []string) (out []netip.Prefix) {
	for _, s := range list {
		if p, err := parsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return masked(out)
}

func familyIndex(f lb.Family) int {
	if f == lb.IPv6 {
		return 1
	}
	return 0
}

func (n *node) address(f lb.Family) netip.Addr { return n.primary[familyIndex(f)] }

func (n *node) equal(m *node) bool {
	return n.zone == m.zone && n.primary == m.primary && slices.Equal(n.podCIDRs, m.podCIDRs)
}

// settled reports whether the Node says what a start waits for.
func (t *Translation) settled(n *node) bool {
	return n.primary != [2]netip.Addr{} && (t.DetectLocal.Mode != NodeCIDR || len(n.podCIDRs) > 0)
}

// pods returns where this machine's pods have their addresses, if that is how they
// are told.
func (t *Translation) pods(n *node) []netip.Prefix {
	switch t.DetectLocal.Mode {
	case ClusterCIDR:
		return t.DetectLocal.ClusterCIDRs
	case NodeCIDR:
		return n.podCIDRs
	}
	return nil
}

// podsKnown reports whether pods of the family can be told from others.
func (t *Translation) podsKnown(n *node, f lb.Family) bool {
	return t.DetectLocal.Device != "" && t.byDevice() || len(ofFamily(t.pods(n), f)) > 0
}

func (t *Translation) byDevice() bool {
	return t.DetectLocal.Mode == BridgeInterface || t.DetectLocal.Mode == InterfaceNamePrefix
}

var escapes = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// model returns what the snapshot says of this machine.
func (t *Translation) model(n *node, serviceRanges []netip.Prefix) lb.Node {
	m := lb.Node{NodePorts: t.nodePorts(n), Pods: t.pods(n)}
	switch t.DetectLocal.Mode {
	case BridgeInterface:
		m.PodDevices = []string{escapes.Replace(t.DetectLocal.Device)}
	case InterfaceNamePrefix:
		m.PodDevices = []string{escapes.Replace(t.DetectLocal.Device) + "*"}
	}
	if t.ProxyName == "" { // else most addresses in them are another proxy's
		m.ServiceRanges = serviceRanges
	}
	return m
}

// nodePorts returns where node ports are served.
func (t *Translation) nodePorts(n *node) (out []netip.Prefix) {
	for _, word := range t.NodePortAddresses {
		switch word {
		case primaryWord:
			for _, a := range n.primary {
				if a.IsValid() && !a.IsLoopback() {
					out = append(out, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		case localhostWord:
			out = append(out, loopback4, loopback6)
		case allWord:
			out = append(out, everywhere(lb.IPv4), everywhere(lb.IPv6))
		default:
			p, _ := parsePrefix(word) // checked by checkNodePortAddresses
			out = append(out, p)
		}
	}
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		if len(ofFamily(out, f)) == 0 && !slices.Contains(t.NodePortAddresses, primaryWord) {
			out = append(out, everywhere(f))
		}
	}
	if t.NoLocalhost {
		out = without(out, loopback4)
		// A device has no other address there, and it makes a short list.
		out = without(out, netip.MustParsePrefix("::/16"))
	}
	return masked(out)
}

var loopback4, loopback6 = netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")

// without returns networks of all that is in the list, but not in hole.
func without(list []netip.Prefix, hole netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		switch {
		case !p.Overlaps(hole):
			out = append(out, p)
		case p.Bits() < hole.Bits(): // its halves, of which one is clear of the hole
			low, high := halves(p)
			out = append(out, without([]netip.Prefix{low, high}, hole)...)
		}
	}
	return out
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(upper, p.Bits()+1)
}

func everywhere(f lb.Family) netip.Prefix { return netip.PrefixFrom(unspecified(f), 0) }

func checkNodePortAddresses(words []string) error {
	for i, word := range words {
		if word == primaryWord || word == localhostWord || word == allWord {
			if slices.Contains(words[:i], word) {
				return fmt.Errorf("node port addresses: %q appears twice: write it once", word)
			}
			continue
		}
		if _, err := parsePrefix(word); err != nil {
			return fmt.Errorf("node port addresses: %q: write %s, %s, %s or a network such as 192.0.2.0/24", word, primaryWord, localhostWord, allWord)
		}
	}
	return nil
}
