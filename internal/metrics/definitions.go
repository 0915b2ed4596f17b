// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// definition is what a metric is: docs/metrics.md is made of them.
type definition struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	buckets    []float64 // of a histogram
	// perBackend says that there is a series for each backend.
	perBackend bool
	desc       *prometheus.Desc
}

func define(kind prometheus.ValueType, name, help string, labels ...string) *definition {
	return &definition{name: name, help: help, kind: kind, labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
}

func counter(name, help string, labels ...string) *definition {
	return define(prometheus.CounterValue, name, help, labels...)
}

func gauge(name, help string, labels ...string) *definition {
	return define(prometheus.GaugeValue, name, help, labels...)
}

// perBackend has the labels of a backend before others.
func perBackend(d func(name, help string, labels ...string) *definition, name, help string, labels ...string) *definition {
	out := d(name, help, append([]string{"service", "family", "backend"}, labels...)...)
	out.perBackend = true
	return out
}

// The metrics. Labels hold what the configuration names, and words of the
// programs; nothing that a packet brings makes a series.
var (
	buildInfo = gauge("waggle_build_info", "1, with what this binary was built from.", "version", "revision", "go_version")

	dataplaneInfo = gauge("waggle_dataplane_info", "1, with the dataplane that serves, ebpf or ipvs, and in one word why that one: flag, probe (of auto: the programs load here), running (of auto: they run here already); or what of ebpf is missing, so that auto took ipvs: kernel, btf, cgroup or programs.", "dataplane", "reason")

	backendConnections = perBackend(counter, "waggle_backend_connections_total", "Connections, or flows of UDP and SCTP, that were given to the backend.")
	backendPackets     = perBackend(counter, "waggle_backend_packets_total", "Packets of the backend's flows; in: to it, out: from it.", "direction")
	backendBytes       = perBackend(counter, "waggle_backend_bytes_total", "Bytes of the packets of the backend's flows, IP headers included; in: to it, out: from it.", "direction")
	backendFlows       = perBackend(gauge, "waggle_backend_flows", "Flows of the backend, active and inactive as IPVS counts them: established or being opened, and all others.", "state")
	backendWeight      = perBackend(gauge, "waggle_backend_weight", "Weight of the backend; 0: it gets nothing new. A backend that has left its service has none.")
	backendOverloaded  = perBackend(gauge, "waggle_backend_overloaded", "1 while the backend gets nothing new because it has too many flows: its upper threshold, and not fewer than its lower since.")

	backendsLeftOut = gauge("waggle_backends_left_out", "Backends that have no series of their own in this answer.")

	serviceInfo     = gauge("waggle_service_info", "1, with the scheduler of the service.", "service", "family", "scheduler")
	serviceBackends = gauge("waggle_service_backends", "Backends of the service. Usable ones get new flows, quiesced ones have weight 0, draining ones have left and keep their flows.", "service", "family", "state")

	drops = counter("waggle_drops_total", "Packets that were refused or dropped, by the reasons of docs/drops.md.", "reason")

	flowEntries      = gauge("waggle_flow_entries", "Places of the flow table that are taken, by the last walk over it, every 2 seconds. A flow has 2, a masqueraded one 4.")
	flowEntriesLimit = gauge("waggle_flow_entries_limit", "Places that the flow table has. It grows when four fifths of them are taken.")
	flowEntriesMax   = gauge("waggle_flow_entries_max", "Places that the flow table may grow to have: --flows-max. Full with these it refuses new flows.")
	halfOpenFlows    = gauge("waggle_half_open_flows", "Flows of which nothing shows that their client is there. If there are many the oldest make room for new ones.")

	auditDifference = gauge("waggle_audit_difference", "How far the counts of backends are from the flows and sockets that there are, all together. It must be 0: else please report it.")
	auditBackends   = gauge("waggle_audit_backends", "Backends that the last audit compared, and those that it skipped, as their connections came and went meanwhile.", "result")
	auditTime       = gauge("waggle_audit_timestamp_seconds", "When the last audit was done, in seconds since 1970. There is one a minute.")
	auditDuration   = gauge("waggle_audit_duration_seconds", "How long the last audit took.")

	generation     = gauge("waggle_config_generation", "Number of the configuration that packets see: one more with each start of waggle.")
	applies        = counter("waggle_applies_total", "How often a state was written to the kernel; incomplete: something is left to be tried again.", "result")
	applyTime      = gauge("waggle_apply_timestamp_seconds", "When a state was last written to the kernel, in seconds since 1970.")
	applyDuration  = gauge("waggle_apply_duration_seconds", "How long the last write to the kernel took.")
	failedServices = gauge("waggle_failed_services", "Services that the last write failed for: they go on as they were.")
	refused        = gauge("waggle_refused_services", "Services that are not served as desired: what they ask for is not supported, or their name or VIP is another's.")
	waiting        = gauge("waggle_sources_waiting", "Sources that have not delivered yet. Nothing is written while there are any.")

	mended   = counter("waggle_mended_total", "What others took away and waggle put back since it started: programs off their devices, a clsact qdisc with what was on it, pins.", "what")
	followed = counter("waggle_followed_total", "Devices and addresses of this machine that came or went since waggle started.", "what")
	ended    = counter("waggle_sockets_ended_total", "Sockets that waggle ended since it started, as the backend that they were connected to no longer serves.")
	broken   = gauge("waggle_broken", "What is out of order and waggle cannot mend, in devices, addresses and pins: `waggle status` and the log say what.")

	xdpDevices = gauge("waggle_xdp_devices", "Devices by how XDP runs there: native, generic or off. `waggle status` says why.", "mode")

	collectErrors = counter("waggle_collect_errors_total", "How often something could not be read for these metrics. The log says what.")
)

// definitions are all of them, in the order of the docs.
func definitions() []*definition {
	return []*definition{
		backendConnections, backendPackets, backendBytes, backendFlows, backendWeight, backendOverloaded, backendsLeftOut,
		serviceInfo, serviceBackends, drops, flowEntries, flowEntriesLimit, flowEntriesMax, halfOpenFlows,
		auditDifference, auditBackends, auditTime, auditDuration,
		generation, applies, applyTime, applyDuration, failedServices, refused, waiting, mended, followed, ended, broken, xdpDevices,
		buildInfo, dataplaneInfo, collectErrors,
	}
}
