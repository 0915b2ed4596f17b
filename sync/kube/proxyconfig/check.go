// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waggle-lb/waggle/lb/sched"
)

// Check says what is wrong with a configuration that flags make: "--flag: what". Who
// registers a flag elsewhere checks it.
func Check(c *Configuration) (err error) {
	check(c, func(field, what string) {
		var of Field
		if i := slices.IndexFunc(Fields, func(f Field) bool { return f.Path == field }); i >= 0 {
			of = Fields[i]
		}
		if of.Flag != "" {
			field = "--" + of.Flag
		}
		if err == nil && !of.Elsewhere {
			err = fmt.Errorf("%s: %s", field, what)
		}
	})
	return err
}

// check calls bad for each field that kube-proxy, or waggle, cannot take. What the
// translation of Services checks (node ports, how pods are told) is left to it, but
// for what names a field.
func check(c *Configuration, bad func(field, what string)) {
	if mode := string(c.Mode); !slices.Contains(Modes, mode) {
		bad("mode", fmt.Sprintf("%q: write one of %s", mode, strings.Join(Modes, ", ")))
	}
	if _, err := netip.ParseAddr(c.BindAddress); err != nil {
		bad("bindAddress", fmt.Sprintf("%q: write an address, 192.0.2.1 say", c.BindAddress))
	}
	checkAddrPort("healthzBindAddress", c.HealthzBindAddress, bad)
	checkAddrPort("metricsBindAddress", c.MetricsBindAddress, bad)
	checkNumbers(c, bad)
	checkDurations(c, bad)
	checkNetworks(c, bad)
	checkConnection(c, bad)
	if _, err := sched.Find(c.IPVS.Scheduler); err != nil && c.IPVS.Scheduler != "" {
		bad("ipvs.scheduler", err.Error())
	}
	checkLocal(c, bad)
}

func checkAddrPort(field, text string, bad func(field, what string)) {
	if text == "" {
		return
	}
	if a, err := netip.ParseAddrPort(text); err != nil || a.Port() == 0 {
		bad(field, fmt.Sprintf("%q is not ADDRESS:PORT: write 127.0.0.1:10249, or for all addresses 0.0.0.0:10249 or [::]:10249", text))
	}
}

func checkNumbers(c *Configuration, bad func(field, what string)) {
	for _, n := range []struct {
		field       string
		value       *int32
		least, most int32
	}{
		{"iptables.masqueradeBit", c.IPTables.MasqueradeBit, 0, 31},
		{"nftables.masqueradeBit", c.NFTables.MasqueradeBit, 0, 31},
		{"oomScoreAdj", c.OOMScoreAdj, -1000, 1000},
		{"conntrack.maxPerCore", c.Conntrack.MaxPerCore, 0, 1<<31 - 1},
		{"conntrack.min", c.Conntrack.Min, 0, 1<<31 - 1},
		{"clientConnection.burst", &c.ClientConnection.Burst, 0, 1<<31 - 1},
	} {
		if n.value == nil { // left as it is
			continue
		}
		if *n.value < n.least || *n.value > n.most {
			bad(n.field, fmt.Sprintf("%d: write %d to %d", *n.value, n.least, n.most))
		}
	}
}

func checkDurations(c *Configuration, bad func(field, what string)) {
	for _, s := range []struct {
		section   string
		sync, min metav1.Duration
	}{
		{"iptables", c.IPTables.SyncPeriod, c.IPTables.MinSyncPeriod},
		{"ipvs", c.IPVS.SyncPeriod, c.IPVS.MinSyncPeriod},
		{"nftables", c.NFTables.SyncPeriod, c.NFTables.MinSyncPeriod},
	} {
		if s.sync.Duration <= 0 {
			bad(s.section+".syncPeriod", fmt.Sprintf("%v: write more than 0, 30s say", s.sync.Duration))
		} else if s.min.Duration > s.sync.Duration {
			bad(s.section+".minSyncPeriod", fmt.Sprintf("%v: write no more than syncPeriod, %v", s.min.Duration, s.sync.Duration))
		}
	}
	for _, d := range []struct {
		field string
		value metav1.Duration
	}{
		{"iptables.minSyncPeriod", c.IPTables.MinSyncPeriod},
		{"ipvs.minSyncPeriod", c.IPVS.MinSyncPeriod},
		{"nftables.minSyncPeriod", c.NFTables.MinSyncPeriod},
		{"conntrack.tcpEstablishedTimeout", *c.Conntrack.TCPEstablishedTimeout},
		{"conntrack.tcpCloseWaitTimeout", *c.Conntrack.TCPCloseWaitTimeout},
		{"conntrack.udpTimeout", c.Conntrack.UDPTimeout},
		{"conntrack.udpStreamTimeout", c.Conntrack.UDPStreamTimeout},
	} {
		if d.value.Duration < 0 {
			bad(d.field, fmt.Sprintf("%v: write 0 or more", d.value.Duration))
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"ipvs.tcpTimeout", c.IPVS.TCPTimeout.Duration},
		{"ipvs.tcpFinTimeout", c.IPVS.TCPFinTimeout.Duration},
		{"ipvs.udpTimeout", c.IPVS.UDPTimeout.Duration},
	} {
		if d.value < 0 || d.value > mostTimeout || d.value%time.Second != 0 {
			bad(d.field, fmt.Sprintf("%v: write whole seconds, 1s to %.0fh, or 0 for IPVS's", d.value, mostTimeout.Hours()))
		}
	}
}

func checkNetworks(c *Configuration, bad func(field, what string)) {
	for _, list := range []struct {
		field string
		value []string
	}{
		{"clusterCIDR", clusterCIDRs(c)},
		{"ipvs.excludeCIDRs", c.IPVS.ExcludeCIDRs},
	} {
		for _, text := range list.value {
			if _, err := netip.ParsePrefix(text); err != nil {
				bad(list.field, fmt.Sprintf("network %q: write one such as 10.244.0.0/16", text))
			}
		}
	}
	for i, word := range c.NodePortAddresses {
		if slices.Contains(nodePortWords, word) {
			if slices.Contains(c.NodePortAddresses[:i], word) {
				bad("nodePortAddresses", fmt.Sprintf("%q appears twice: write it once", word))
			}
			continue
		}
		if _, err := netip.ParsePrefix(word); err != nil {
			bad("nodePortAddresses", fmt.Sprintf("%q: write %s or a network such as 192.0.2.0/24", word, strings.Join(nodePortWords, ", ")))
		}
	}
}

func checkConnection(c *Configuration, bad func(field, what string)) {
	if t := c.ClientConnection.ContentType; t != contentProtobuf && t != contentJSON {
		bad("clientConnection.contentType", fmt.Sprintf("%q: write %s or %s", t, contentProtobuf, contentJSON))
	}
}

func checkLocal(c *Configuration, bad func(field, what string)) {
	field, device := "", ""
	switch c.DetectLocalMode {
	case "ClusterCIDR", "NodeCIDR":
		return
	case "BridgeInterface":
		field, device = "detectLocal.bridgeInterface", c.DetectLocal.BridgeInterface
	case "InterfaceNamePrefix":
		field, device = "detectLocal.interfaceNamePrefix", c.DetectLocal.InterfaceNamePrefix
	default:
		bad("detectLocalMode", fmt.Sprintf("%q: write ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", c.DetectLocalMode))
		return
	}
	if device == "" || len(device) > 15 {
		bad(field, fmt.Sprintf("%q: with detectLocalMode %s write the name of a device, of 1 to 15 characters", device, c.DetectLocalMode))
	}
}
