// SPDX-License-Identifier: Apache-2.0

// Package proxyconfig reads kube-proxy's configuration file, and says what each of
// its fields comes to here. Fields lists them; docs/kube-proxy-configuration.md is
// that list for users.
package proxyconfig

import (
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// Configuration is kube-proxy's.
type Configuration = v1alpha1.KubeProxyConfiguration

// What a file says it is.
const (
	APIVersion = "kubeproxy.config.k8s.io/v1alpha1"
	Kind       = "KubeProxyConfiguration"
)

// The content types that the API server is asked for.
const (
	contentProtobuf = "application/vnd.kubernetes.protobuf"
	contentJSON     = "application/json"
)

// The ports of kube-proxy's servers.
const (
	healthzPort = 10256
	metricsPort = 10249
)

// Default returns what flags that are not written say: kube-proxy's, or in waggle's
// own mode what leaves the machine as it is. Addresses of servers are not there: who
// registers their flags has the defaults.
func Default(kubeProxys bool) *Configuration {
	c := new(Configuration)
	if !kubeProxys {
		c.Mode = ModeEBPF
		c.Conntrack.MaxPerCore, c.Conntrack.Min = new(int32), new(int32)
		c.Conntrack.TCPEstablishedTimeout, c.Conntrack.TCPCloseWaitTimeout = new(metav1.Duration), new(metav1.Duration)
	}
	complete(c)
	if !kubeProxys {
		c.OOMScoreAdj = nil
	}
	c.HealthzBindAddress, c.MetricsBindAddress = "", ""
	return c
}

// complete fills in what is not written as kube-proxy does. Only minSyncPeriod stays
// 0, as waggle does not need to wait; nodePortAddresses stays empty, which Settings
// knows to read.
func complete(c *Configuration) {
	c.APIVersion, c.Kind = APIVersion, Kind
	orElse(&c.Mode, ModeIPTables)
	orElse(&c.BindAddress, netip.IPv4Unspecified().String())
	all, own := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if bind, err := netip.ParseAddr(c.BindAddress); err == nil && bind.Is6() {
		all, own = netip.IPv6Unspecified(), netip.IPv6Loopback()
	}
	completeAddr(&c.HealthzBindAddress, all, healthzPort)
	completeAddr(&c.MetricsBindAddress, own, metricsPort)
	for _, d := range []*metav1.Duration{&c.IPTables.SyncPeriod, &c.IPVS.SyncPeriod, &c.NFTables.SyncPeriod} {
		orElse(&d.Duration, 30*time.Second)
	}
	orNew(&c.IPTables.MasqueradeBit, 14)
	orNew(&c.NFTables.MasqueradeBit, 14)
	orNew(&c.IPTables.LocalhostNodePorts, true)
	orNew(&c.OOMScoreAdj, -999)
	orNew(&c.Conntrack.MaxPerCore, 32<<10)
	orNew(&c.Conntrack.Min, 128<<10)
	orNew(&c.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	orNew(&c.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})
	orElse(&c.ConfigSyncPeriod.Duration, 15*time.Minute)
	orElse(&c.DetectLocalMode, "ClusterCIDR")
	orElse(&c.ClientConnection.ContentType, contentProtobuf)
	orElse(&c.ClientConnection.QPS, 5)
	orElse(&c.ClientConnection.Burst, 10)
	orElse(&c.Logging.Format, "text")
	orElse(&c.Logging.FlushFrequency.Duration.Duration, 5*time.Second)
}

func orElse[T comparable](to *T, unset T) {
	var zero T
	if *to == zero {
		*to = unset
	}
}

func orNew[T any](to **T, unset T) {
	if *to == nil {
		*to = &unset
	}
}

// completeAddr adds the address or the port that is missing.
func completeAddr(text *string, unset netip.Addr, port uint16) {
	if a, err := netip.ParseAddr(*text); err == nil {
		unset, *text = a, ""
	}
	orElse(text, netip.AddrPortFrom(unset, port).String())
}

// YAML writes a configuration as --write-config-to does.
func YAML(c *Configuration) ([]byte, error) {
	out, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the configuration as YAML: %w", err)
	}
	return out, nil
}
