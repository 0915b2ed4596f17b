// SPDX-License-Identifier: Apache-2.0

package main

import (
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

	"github.com/waggle-lb/waggle/sync/kube"
)

// kubeTimeout is how long an established connection of TCP lives without a packet
// where nobody says otherwise: kube-proxy's conntrack.tcpEstablishedTimeout.
const kubeTimeout = 24 * time.Hour

// kubeFlags are the flags of `waggle run` for services of an API server; their names
// are kube-proxy's where it has them.
type kubeFlags struct {
	config      string // a kubeconfig file
	nodeName    string
	nodePorts   []string
	externalIPs []string // as written
	clusterCIDR []string // as written
	mode        string
	bridge      string
	prefix      string
	masqAll     bool
	proxyName   string

	given       func(name string) bool // whether a flag was written
	translation kube.Translation       // made of them
}

// needs says of flags which mode of --detect-local-mode they are for.
var needs = map[string]kube.Mode{
	"cluster-cidr": kube.ClusterCIDR, "pod-bridge-interface": kube.BridgeInterface, "pod-interface-name-prefix": kube.InterfaceNamePrefix,
}

// kubeOnly are the flags that mean nothing to a file of services.
var kubeOnly = []string{
	"hostname-override", "nodeport-addresses", "external-ips", "cluster-cidr", "detect-local-mode", "pod-bridge-interface",
	"pod-interface-name-prefix", "masquerade-all", "proxy-name",
}

func (f *kubeFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	f.given = s.Changed
	s.StringVar(&f.config, "kubeconfig", "", "follow the API server that this file names; with neither this nor --services, in a pod, the pod's own")
	s.StringVar(&f.nodeName, "hostname-override", "", "name of this machine's Node; empty: its host name")
	s.StringSliceVar(&f.nodePorts, "nodeport-addresses", nil, "where node ports are served: networks, and the words primary, localhost and all; empty: primary, the Node's own addresses")
	s.StringSliceVar(&f.externalIPs, "external-ips", nil, "networks in which spec.externalIPs of Services are served; empty: none is")
	s.StringSliceVar(&f.clusterCIDR, "cluster-cidr", nil, "networks of pods, for --detect-local-mode ClusterCIDR")
	s.StringVar(&f.mode, "detect-local-mode", string(kube.ClusterCIDR), "how this machine's pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	s.StringVar(&f.bridge, "pod-bridge-interface", "", "the bridge of mode BridgeInterface")
	s.StringVar(&f.prefix, "pod-interface-name-prefix", "", "what device names of mode InterfaceNamePrefix begin with")
	s.BoolVar(&f.masqAll, "masquerade-all", false, "let backends see this machine's address for all traffic to cluster IPs")
	s.StringVar(&f.proxyName, "proxy-name", "", "serve only Services with this value of the label service.kubernetes.io/service-proxy-name; empty: those without the label")
	complete(cmd, "detect-local-mode", cobra.FixedCompletions([]string{string(kube.ClusterCIDR), string(kube.NodeCIDR), string(kube.BridgeInterface), string(kube.InterfaceNamePrefix)},
		cobra.ShellCompDirectiveNoFileComp))
}

// inCluster reports whether a pod's own API server is known.
func inCluster() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// validate makes the translation; scheduler is the default of services.
func (f *kubeFlags) validate(scheduler string) error {
	for _, flag := range slices.Sorted(maps.Keys(needs)) {
		if f.given(flag) && needs[flag] != kube.Mode(f.mode) {
			return fmt.Errorf("--%s is for --detect-local-mode %s: write that, or leave it out", flag, needs[flag])
		}
	}
	external, err := prefixes(f.externalIPs)
	if err != nil {
		return fmt.Errorf("--external-ips: %w", err)
	}
	pods, err := prefixes(f.clusterCIDR)
	if err != nil {
		return fmt.Errorf("--cluster-cidr: %w", err)
	}
	f.translation = kube.Translation{
		NodeName: f.nodeName, Scheduler: scheduler, MasqueradeAll: f.masqAll, ExternalIPs: external, ProxyName: f.proxyName,
		NodePortAddresses: f.nodePorts, DetectLocal: kube.DetectLocal{Mode: kube.Mode(f.mode), ClusterCIDRs: pods},
	}
	switch kube.Mode(f.mode) {
	case kube.BridgeInterface:
		f.translation.DetectLocal.Device = f.bridge
	case kube.InterfaceNamePrefix:
		f.translation.DetectLocal.Device = f.prefix
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
	config, err := kube.Config(kube.Connection{Kubeconfig: f.config})
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Options{Translation: f.translation, Config: config, Deliver: deliver, Log: log})
}

// checkSource says where services come from, if it is one place.
func (f *runFlags) checkSource() error {
	switch {
	case f.services != "" && f.kube.config != "":
		return errors.New("--services and --kubeconfig: write one of them")
	case f.services == "" && f.kube.config == "" && !inCluster():
		return errors.New("no services: write --services FILE, or --kubeconfig FILE to follow an API server, or --check FILE to check a file")
	}
	if f.services == "" {
		return nil
	}
	for _, flag := range kubeOnly {
		if f.kube.given(flag) {
			return fmt.Errorf("--%s is for an API server, and --services names a file: leave one of them out", flag)
		}
	}
	return nil
}
