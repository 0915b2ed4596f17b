// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/kube"
)

// kubeTimeout is how long an established connection of TCP lives without a packet
// where nobody says otherwise: kube-proxy's conntrack.tcpEstablishedTimeout.
const kubeTimeout = 24 * time.Hour

// kubeFlags are the flags of `waggle run` for services of an API server: kube-proxy's,
// and what it has not.
type kubeFlags struct {
	proxy       proxyFlags
	externalIPs []string // as written
	proxyName   string

	given       func(name string) bool // whether a flag was written
	translation kube.Translation       // made of them
}

// needs says of flags which mode of --detect-local-mode they are for.
var needs = map[string]kube.Mode{
	"cluster-cidr": kube.ClusterCIDR, "pod-bridge-interface": kube.BridgeInterface, "pod-interface-name-prefix": kube.InterfaceNamePrefix,
}

func (f *kubeFlags) register(cmd *cobra.Command, kubeProxys bool) {
	s := cmd.Flags()
	f.given = s.Changed
	f.proxy.register(cmd, kubeProxys)
	s.StringSliceVar(&f.externalIPs, "external-ips", nil, "networks in which spec.externalIPs of Services are served; empty: none is")
	s.StringVar(&f.proxyName, "proxy-name", "", "serve only Services with this value of the label service.kubernetes.io/service-proxy-name; empty: those without the label")
	complete(cmd, "detect-local-mode", cobra.FixedCompletions([]string{string(kube.ClusterCIDR), string(kube.NodeCIDR), string(kube.BridgeInterface), string(kube.InterfaceNamePrefix)},
		cobra.ShellCompDirectiveNoFileComp))
}

// inCluster reports whether a pod's own API server is known.
func inCluster() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// validate makes the translation; scheduler and its flags are the default of services.
func (f *kubeFlags) validate(scheduler string, flags lb.SchedulerFlags) error {
	c, settings := f.proxy.config, &f.proxy.settings
	for _, flag := range slices.Sorted(maps.Keys(needs)) {
		if !f.proxy.kubeProxys && f.given(flag) && needs[flag] != kube.Mode(c.DetectLocalMode) {
			return fmt.Errorf("--%s is for --detect-local-mode %s: write that, or leave it out", flag, needs[flag])
		}
	}
	external, err := prefixes(f.externalIPs)
	if err != nil {
		return fmt.Errorf("--external-ips: %w", err)
	}
	f.translation = kube.Translation{
		NodeName: cmp.Or(c.HostnameOverride, os.Getenv("NODE_NAME")), Scheduler: scheduler, SchedulerFlags: flags, MasqueradeAll: settings.MasqueradeAll, ExternalIPs: external, ProxyName: f.proxyName,
		NodePortAddresses: settings.NodePortAddresses, NoLocalhost: settings.NoLocalhost, Address: settings.Address,
		DetectLocal: kube.DetectLocal{Mode: kube.Mode(c.DetectLocalMode), ClusterCIDRs: settings.ClusterCIDRs, Device: settings.Device},
	}
	return f.translation.Check()
}

func prefixes(texts []string) (out []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("network %q: write one such as 10.244.0.0/16", text)
		}
		out = append(out, p)
	}
	return out, nil
}

// source makes the task that follows the API server.
func (f *kubeFlags) source(deliver func(kube.Delivery), log *slog.Logger) (*kube.Source, error) {
	c := &f.proxy.config.ClientConnection
	config, err := kube.Config(kube.Connection{
		Kubeconfig: c.Kubeconfig, Server: f.proxy.master, QPS: c.QPS, Burst: int(c.Burst), ContentType: c.ContentType, AcceptContentTypes: c.AcceptContentTypes,
	})
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Options{Translation: f.translation, Config: config, Deliver: deliver, Log: log})
}

// checkSource says where services come from, if it is one place.
func (f *runFlags) checkSource() error {
	proxy := &f.kube.proxy
	kubeconfig := proxy.config.ClientConnection.Kubeconfig
	switch {
	case f.services != "" && proxy.ofKubeProxy:
		return fmt.Errorf("--services and --config: %s is for an API server: write one of them", proxy.file)
	case f.services != "" && kubeconfig != "":
		return errors.New("--services and --kubeconfig: write one of them")
	case f.services == "" && kubeconfig == "" && proxy.master == "" && !inCluster():
		return errors.New("no services: write --services FILE, or --kubeconfig FILE to follow an API server, or --check FILE to check a file")
	}
	if f.services == "" {
		return nil
	}
	for _, flag := range append(proxy.forAPIServer(), "external-ips", "proxy-name") {
		if f.kube.given(flag) {
			return fmt.Errorf("--%s is for an API server, and --services names a file: leave one of them out", flag)
		}
	}
	return nil
}
