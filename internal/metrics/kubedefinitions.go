// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// histogram is a definition with upper bounds of its buckets.
func histogram(name, help string, buckets []float64, labels ...string) *definition {
	d := define(prometheus.UntypedValue, name, help, labels...)
	d.buckets = buckets
	return d
}

// Buckets are kube-proxy's and client-go's: sums over machines need equal ones.
var (
	syncBuckets        = prometheus.ExponentialBuckets(0.001, 2, 15)
	programmingBuckets = slices.Concat([]float64{0.25, 0.5}, prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7))
	requestBuckets     = []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}
	sizeBuckets        = []float64{64, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216}
)

// Metrics that dashboards of kube-proxy, and of Kubernetes' components, look for.
var (
	kubeBuildInfo = gauge("kubernetes_build_info", "1, with what this binary was built from: waggle's own version, not that of a Kubernetes.",
		"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform")

	programming = histogram("kubeproxy_network_programming_duration_seconds", "From when the control plane had reason to change an EndpointSlice, as the slice says, to when the kernel has it.", programmingBuckets, "ip_family")
	syncs       = histogram("kubeproxy_sync_proxy_rules_duration_seconds", "How long writing a state to the kernel took. Both families are written at once: each has the same.", syncBuckets, "ip_family")
	synced      = gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When a state was last written to the kernel with success, in seconds since 1970.", "ip_family")
	queued      = gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When there was last something new to write, in seconds since 1970; at first when the process began.", "ip_family")

	serviceChanges        = counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services.")
	serviceChangesPending = gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that are not in the kernel yet.")
	sliceChanges          = counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices.")
	sliceChangesPending   = gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that are not in the kernel yet.")
	noLocal               = gauge("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "Service ports with endpoints, but none on this machine where their policy is Local.", "traffic_policy", "ip_family")

	healthz = counter("kubeproxy_proxy_healthz_total", "Answers at /healthz, by their status code.", "code")
	livez   = counter("kubeproxy_proxy_livez_total", "Answers at /livez, by their status code.", "code")

	requests       = counter("rest_client_requests_total", "Requests to the API server, by the status code of the answer.", "code", "method", "host")
	requestRetries = counter("rest_client_request_retries_total", "Requests to the API server that were sent again.", "code", "verb", "host")
	requestTime    = histogram("rest_client_request_duration_seconds", "How long the API server took to answer.", requestBuckets, "verb", "host")
	limited        = histogram("rest_client_rate_limiter_duration_seconds", "How long requests waited for the process's own limits.", requestBuckets, "verb", "host")
	requestSize    = histogram("rest_client_request_size_bytes", "Size of requests to the API server.", sizeBuckets, "verb", "host")
	responseSize   = histogram("rest_client_response_size_bytes", "Size of the API server's answers.", sizeBuckets, "verb", "host")
)

// kubeDefinitions are all of them, in the order of the docs.
func kubeDefinitions() []*definition {
	return []*definition{
		programming, syncs, synced, queued, serviceChanges, serviceChangesPending, sliceChanges, sliceChangesPending, noLocal,
		healthz, livez, requests, requestRetries, requestTime, limited, requestSize, responseSize, kubeBuildInfo,
	}
}

// Metrics of /metrics/slis.
var (
	healthcheck  = gauge("kubernetes_healthcheck", "1 if the last answer of this health check was good, else 0.", "name", "type")
	healthchecks = counter("kubernetes_healthchecks_total", "Answers of this health check, by what they were.", "name", "type", "status")
)
