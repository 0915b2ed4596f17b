// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"slices"
	"strings"
)

// Use says what becomes of a field.
type Use int

const (
	// Served fields do what they do in kube-proxy.
	Served Use = iota
	// Needless ones ask for what is so anyway: nothing is said of them.
	Needless
	// Ignored ones have no meaning here: a warning says so where one is written.
	Ignored
)

// The modes of kube-proxy, and waggle's own.
const (
	ModeIPTables = "iptables"
	ModeIPVS     = "ipvs"
	ModeNFTables = "nftables"
	ModeEBPF     = "ebpf"
)

// Modes are the values of field mode.
var Modes = []string{ModeEBPF, ModeIPTables, ModeIPVS, ModeNFTables}

// Field is a field of the configuration, or all below one.
type Field struct {
	// Path is as in the file: "iptables.minSyncPeriod".
	Path string
	// Flag is kube-proxy's flag of the same meaning, without dashes; "": it has none.
	Flag string
	Use  Use
	// Modes are those in which the field is read; empty: all.
	Modes []string
	// Beats says that the flag counts beside a file.
	Beats bool
	// Anywhere says that the flag is for services of a file, too.
	Anywhere bool
	// Elsewhere says that the flag is registered by whom it is for, not with the rest.
	Elsewhere bool
	// Text says in a line what a Served field's flag is for, and of an Ignored one
	// why it has no meaning.
	Text string
}

// sections in which a mode's own fields are read: waggle's own mode has the
// schedulers and timeouts of IPVS, and the rest of iptables.
var (
	readInIPTables = []string{ModeIPTables, ModeEBPF}
	readInIPVS     = []string{ModeIPVS, ModeEBPF}
)

const (
	noMark = "waggle marks no packets"
	atOnce = "logs are written to stderr at once"
)

// Fields are all that there are, in the order of the type.
var Fields = []Field{
	{Path: "featureGates", Flag: "feature-gates", Use: Ignored, Text: "waggle has none of kube-proxy's feature gates"},
	{Path: "clientConnection.kubeconfig", Flag: "kubeconfig", Text: "follow the API server that this file names; with neither this nor --services, in a pod, the pod's own"},
	{Path: "clientConnection.acceptContentTypes"},
	{Path: "clientConnection.contentType", Flag: "kube-api-content-type", Text: "how the API server is asked to write: " + contentProtobuf + " or " + contentJSON},
	{Path: "clientConnection.qps", Flag: "kube-api-qps", Text: "how many requests a second the API server is sent; negative: no limit"},
	{Path: "clientConnection.burst", Flag: "kube-api-burst", Text: "how many requests are sent at once"},
	{Path: "logging.format", Flag: "logging-format", Use: Ignored, Beats: true, Text: "waggle logs as text"},
	{Path: "logging.flushFrequency", Flag: "log-flush-frequency", Use: Ignored, Beats: true, Text: atOnce},
	{Path: "logging.verbosity", Flag: "v", Beats: true, Anywhere: true, Text: "how much is logged, as in kube-proxy: from 4 on what is for finding faults"},
	{Path: "logging.vmodule", Flag: "vmodule", Use: Ignored, Beats: true, Text: "--v is for all alike"},
	{Path: "logging.options.text.splitStream", Flag: "log-text-split-stream", Use: Ignored, Beats: true, Text: atOnce},
	{Path: "logging.options.text.infoBufferSize", Flag: "log-text-info-buffer-size", Use: Ignored, Beats: true, Text: atOnce},
	{Path: "logging.options.json.splitStream", Flag: "log-json-split-stream", Use: Ignored, Beats: true, Text: atOnce},
	{Path: "logging.options.json.infoBufferSize", Flag: "log-json-info-buffer-size", Use: Ignored, Beats: true, Text: atOnce},
	{Path: "hostnameOverride", Flag: "hostname-override", Beats: true, Text: "name of this machine's Node; empty: that of the environment's NODE_NAME, else its host name"},
	{Path: "bindAddress", Flag: "bind-address", Text: "this machine's primary address, in the place of its Node's of the same family; 0.0.0.0 and :: are none. Nothing is bound to it"},
	{Path: "healthzBindAddress", Flag: "healthz-bind-address", Anywhere: true, Elsewhere: true},
	{Path: "metricsBindAddress", Flag: "metrics-bind-address", Anywhere: true, Elsewhere: true},
	{Path: "bindAddressHardFail", Flag: "bind-address-hard-fail", Anywhere: true, Elsewhere: true},
	{Path: "enableProfiling", Flag: "profiling", Anywhere: true, Elsewhere: true},
	{Path: "showHiddenMetricsForVersion", Flag: "show-hidden-metrics-for-version", Use: Ignored, Text: "waggle hides no metrics"},
	{Path: "mode", Flag: "proxy-mode", Text: "whose meaning other settings have: ebpf, or kube-proxy's iptables, ipvs and nftables; packets are led by eBPF in all of them"},
	{Path: "iptables.masqueradeBit", Flag: "iptables-masquerade-bit", Use: Ignored, Text: noMark},
	{Path: "iptables.masqueradeAll", Flag: "masquerade-all", Modes: []string{ModeIPTables, ModeIPVS, ModeEBPF}, Text: "let backends see this machine's address for all traffic to cluster IPs"},
	{Path: "iptables.localhostNodePorts", Flag: "iptables-localhost-nodeports", Modes: []string{ModeIPTables}, Text: "with --proxy-mode iptables: whether node ports are served at 127.0.0.0/8"},
	{Path: "iptables.syncPeriod", Flag: "iptables-sync-period", Modes: readInIPTables, Text: "half the time that a change may wait to be served before the machine counts as unhealthy"},
	{Path: "iptables.minSyncPeriod", Flag: "iptables-min-sync-period", Modes: readInIPTables, Text: "least time from one change of the kernel to the next; 0: 10ms"},
	{Path: "ipvs.syncPeriod", Flag: "ipvs-sync-period", Modes: []string{ModeIPVS}, Text: "with --proxy-mode ipvs: --iptables-sync-period"},
	{Path: "ipvs.minSyncPeriod", Flag: "ipvs-min-sync-period", Modes: []string{ModeIPVS}, Text: "with --proxy-mode ipvs: --iptables-min-sync-period"},
	{Path: "ipvs.scheduler", Flag: "ipvs-scheduler", Modes: readInIPVS, Text: "--scheduler, if that is not written"},
	{Path: "ipvs.excludeCIDRs", Flag: "ipvs-exclude-cidrs", Use: Needless, Text: "networks whose virtual services are left alone: waggle leaves all alone that are not its own"},
	{Path: "ipvs.strictARP", Flag: "ipvs-strict-arp", Modes: readInIPVS, Text: "answer ARP only for addresses of the device that is asked: sysctls arp_ignore=1 and arp_announce=2"},
	{Path: "ipvs.tcpTimeout", Flag: "ipvs-tcp-timeout", Modes: readInIPVS, Anywhere: true, Text: "how long an established TCP connection lives without a packet; 0 is IPVS's 15m0s, with an API server 24h"},
	{Path: "ipvs.tcpFinTimeout", Flag: "ipvs-tcpfin-timeout", Modes: readInIPVS, Anywhere: true, Text: "how long after the server's FIN; 0 is IPVS's 2m0s"},
	{Path: "ipvs.udpTimeout", Flag: "ipvs-udp-timeout", Modes: readInIPVS, Anywhere: true, Text: "how long a flow of UDP lives without a datagram; 0 is IPVS's 5m0s"},
	{Path: "nftables.masqueradeBit", Use: Ignored, Text: noMark},
	{Path: "nftables.masqueradeAll", Modes: []string{ModeNFTables}},
	{Path: "nftables.syncPeriod", Modes: []string{ModeNFTables}},
	{Path: "nftables.minSyncPeriod", Modes: []string{ModeNFTables}},
	{Path: "winkernel", Use: Ignored, Text: "it is for Windows"},
	{Path: "detectLocalMode", Flag: "detect-local-mode", Text: "how this machine's pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"},
	{Path: "detectLocal.bridgeInterface", Flag: "pod-bridge-interface", Text: "the bridge of mode BridgeInterface"},
	{Path: "detectLocal.interfaceNamePrefix", Flag: "pod-interface-name-prefix", Text: "what device names of mode InterfaceNamePrefix begin with"},
	{Path: "clusterCIDR", Flag: "cluster-cidr", Text: "networks of pods, for --detect-local-mode ClusterCIDR"},
	{Path: "nodePortAddresses", Flag: "nodeport-addresses", Text: "where node ports are served: networks, and the words primary, localhost and all; empty: primary, the Node's own addresses"},
	{Path: "oomScoreAdj", Flag: "oom-score-adj", Text: "how soon the kernel ends this process when memory is short, -1000 (never) to 1000"},
	{Path: "conntrack.maxPerCore", Flag: "conntrack-max-per-core", Text: "connections that netfilter may track, for each CPU, up to 1048576 in all; 0: as it is"},
	{Path: "conntrack.min", Flag: "conntrack-min", Text: "the least that --conntrack-max-per-core comes to"},
	{Path: "conntrack.tcpEstablishedTimeout", Flag: "conntrack-tcp-timeout-established", Text: "how long netfilter, and waggle without --ipvs-tcp-timeout, keeps an established TCP connection without a packet; 0: as it is"},
	{Path: "conntrack.tcpCloseWaitTimeout", Flag: "conntrack-tcp-timeout-close-wait", Text: "how long netfilter keeps a TCP connection that one side has closed; 0: as it is"},
	{Path: "conntrack.tcpBeLiberal", Flag: "conntrack-tcp-be-liberal", Text: "let netfilter take TCP segments out of the window for valid"},
	{Path: "conntrack.udpTimeout", Flag: "conntrack-udp-timeout", Text: "how long netfilter keeps a UDP flow that nobody answered; 0: as it is"},
	{Path: "conntrack.udpStreamTimeout", Flag: "conntrack-udp-timeout-stream", Text: "how long netfilter, and waggle without --ipvs-udp-timeout, keeps an answered UDP flow; 0: as it is"},
	{Path: "configSyncPeriod", Flag: "config-sync-period", Use: Ignored, Text: "what the API server said is not gone through again: nothing is kept apart from it"},
	{Path: "portRange", Use: Ignored, Text: "kube-proxy ignores it, too"},
	{Path: "windowsRunAsService", Use: Ignored, Text: "it is for Windows"},
}

// readIn reports whether a mode reads the field.
func (f *Field) readIn(mode string) bool {
	return len(f.Modes) == 0 || slices.Contains(f.Modes, mode)
}

// Idle says why a flag has no effect beside the others that made c; "": it has one.
func (f *Field) Idle(c *Configuration) string {
	mode := string(c.Mode)
	switch {
	case f.Use == Ignored:
		return f.Text
	case f.readIn(mode), mode == ModeNFTables && slices.Contains(forNFTables, f.Path):
		return ""
	}
	return fmt.Sprintf("mode %s does not read it: it is for %s", mode, strings.Join(f.Modes, ", "))
}

// PathOfFlag is where the field's flag is written in a mode: Path, but kube-proxy's flags
// name the section of iptables for nftables, too.
func (f *Field) PathOfFlag(mode string) string {
	if mode == ModeNFTables && slices.Contains(forNFTables, f.Path) {
		return strings.Replace(f.Path, "iptables.", "nftables.", 1)
	}
	return f.Path
}

// forNFTables are the fields whose flags are for that mode's section, too.
var forNFTables = []string{"iptables.masqueradeAll", "iptables.syncPeriod", "iptables.minSyncPeriod"}

// FieldOf returns the field that a flag sets; nil: none does.
func FieldOf(flag string) *Field {
	i := slices.IndexFunc(Fields, func(f Field) bool { return f.Flag == flag && flag != "" })
	if i < 0 {
		return nil
	}
	return &Fields[i]
}
