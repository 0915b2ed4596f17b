// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// mostTimeout is the longest that a flow lives without a packet.
const mostTimeout = 31 * 24 * time.Hour

// kubeMinSync is kube-proxy's default of minSyncPeriod.
const kubeMinSync = time.Second

// nodePortWords may stand in nodePortAddresses beside networks.
var nodePortWords = []string{"primary", "localhost", "all"}

// Settings are what does not stand in a configuration as it is used: it depends on
// the mode, or on several fields.
type Settings struct {
	// Scheduler is of IPVS's section; "": none is written.
	Scheduler string
	// TCP, TCPFin and UDP are how long flows live without a packet; 0: IPVS's.
	TCP, TCPFin, UDP time.Duration
	MasqueradeAll    bool
	StrictARP        bool
	// SyncPeriod is half of how long a machine may be out of step before it counts as
	// unhealthy; MinSyncPeriod is the least time between writes, 0 the default's.
	SyncPeriod, MinSyncPeriod time.Duration
	// NodePortAddresses may be empty. NoLocalhost takes loopback addresses out.
	NodePortAddresses []string
	NoLocalhost       bool
	ClusterCIDRs      []netip.Prefix
	// Device is of detectLocalMode BridgeInterface or InterfaceNamePrefix.
	Device string
	// Address replaces the Node's primary one of its family; invalid: none does.
	Address netip.Addr
}

// SettingsOf returns those of a configuration that was checked.
func SettingsOf(c *Configuration) Settings {
	s := Settings{
		TCP:               wholeSeconds(c.Conntrack.TCPEstablishedTimeout.Duration),
		UDP:               wholeSeconds(c.Conntrack.UDPStreamTimeout.Duration),
		MasqueradeAll:     c.IPTables.MasqueradeAll,
		NodePortAddresses: c.NodePortAddresses,
	}
	for _, text := range clusterCIDRs(c) {
		if p, err := netip.ParsePrefix(text); err == nil {
			s.ClusterCIDRs = append(s.ClusterCIDRs, p.Masked())
		}
	}
	if slices.Contains(readInIPVS, string(c.Mode)) {
		s.Scheduler, s.StrictARP = c.IPVS.Scheduler, c.IPVS.StrictARP
		orOther(&s.TCP, c.IPVS.TCPTimeout.Duration)
		orOther(&s.UDP, c.IPVS.UDPTimeout.Duration)
		s.TCPFin = c.IPVS.TCPFinTimeout.Duration
	}
	sync, least := c.IPTables.SyncPeriod, c.IPTables.MinSyncPeriod
	switch c.Mode {
	case ModeIPVS:
		sync, least = c.IPVS.SyncPeriod, c.IPVS.MinSyncPeriod
	case ModeNFTables:
		sync, least = c.NFTables.SyncPeriod, c.NFTables.MinSyncPeriod
		s.MasqueradeAll = c.NFTables.MasqueradeAll
	case ModeIPTables:
		s.localhost(*c.IPTables.LocalhostNodePorts)
	}
	s.SyncPeriod, s.MinSyncPeriod = sync.Duration, least.Duration
	switch c.DetectLocalMode {
	case "BridgeInterface":
		s.Device = c.DetectLocal.BridgeInterface
	case "InterfaceNamePrefix":
		s.Device = c.DetectLocal.InterfaceNamePrefix
	}
	if a, err := netip.ParseAddr(c.BindAddress); err == nil && !a.IsUnspecified() {
		s.Address = a.Unmap()
	}
	return s
}

// localhost does what iptables.localhostNodePorts says: kube-proxy's rules there
// serve node ports at 127.0.0.0/8, which is part of its nodePortAddresses if none
// are written.
func (s *Settings) localhost(served bool) {
	s.NoLocalhost = !served
	if served && len(s.NodePortAddresses) == 0 {
		s.NodePortAddresses = []string{"primary", "127.0.0.0/8"}
	}
}

func orOther(to *time.Duration, d time.Duration) {
	if d != 0 {
		*to = d
	}
}

func wholeSeconds(d time.Duration) time.Duration {
	return min(d.Truncate(time.Second), mostTimeout)
}

func clusterCIDRs(c *Configuration) (out []string) {
	for text := range strings.SplitSeq(c.ClusterCIDR, ",") {
		if text = strings.TrimSpace(text); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// FollowFlags makes the section of nftables say what flags said, of a configuration that
// they made: PathOfFlag.
func FollowFlags(c *Configuration) {
	if c.Mode == ModeNFTables {
		c.NFTables.MasqueradeAll = c.IPTables.MasqueradeAll
		c.NFTables.SyncPeriod, c.NFTables.MinSyncPeriod = c.IPTables.SyncPeriod, c.IPTables.MinSyncPeriod
	}
}

// NodePortsNote says where node ports are not served as kube-proxy would, or as one
// would think; "": that is nowhere.
func NodePortsNote(c *Configuration) string {
	if len(c.NodePortAddresses) == 0 {
		if c.Mode == ModeIPTables || c.Mode == ModeIPVS {
			return fmt.Sprintf("none: node ports are served at the Node's primary addresses; kube-proxy's mode %s serves them at all: write all for that", c.Mode)
		}
		return ""
	}
	var has4, has6 bool
	for _, text := range c.NodePortAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil { // a word, which is for both families
			return ""
		}
		has4, has6 = has4 || p.Addr().Is4(), has6 || p.Addr().Is6()
	}
	switch {
	case !has6:
		return "no network of IPv6: node ports are served at all of its addresses: write one, or primary"
	case !has4:
		return "no network of IPv4: node ports are served at all of its addresses: write one, or primary"
	}
	return ""
}
