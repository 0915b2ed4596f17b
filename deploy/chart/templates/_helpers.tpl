{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "waggle.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "waggle.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "waggle.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "waggle.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "waggle.selector" -}}
app.kubernetes.io/name: {{ include "waggle.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "waggle.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "waggle.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: proxy
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "waggle.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "waggle.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: write the name of the service account in serviceAccount.name" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "waggle.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* The port of "address:port". */}}
{{- define "waggle.port" -}}
{{- regexFind "[0-9]+$" . }}
{{- end }}

{{/* The address of "address:port" that a probe has to name: none if it is any address, as the kubelet takes the node's then. */}}
{{- define "waggle.probeHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" }}
{{- if not (has $host (list "" "0.0.0.0" "::")) }}{{ $host }}{{ end }}
{{- end }}

{{/* Whether "address:port" is reached from this machine alone. */}}
{{- define "waggle.isLoopback" -}}
{{- if regexMatch "^(127\\.|\\[::1\\]|localhost:)" . }}true{{ end }}
{{- end }}

{{/* Bytes of a quantity such as 1Gi; what it cannot read is an error. */}}
{{- define "waggle.bytes" -}}
{{- $text := toString . }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind "[A-Za-z]*$" $text }}
{{- $number := trimSuffix $unit $text }}
{{- if not (and (hasKey $units $unit) (regexMatch "^[0-9]+(\\.[0-9]+)?$" $number)) }}
{{- fail (printf "resources.limits.memory %q: write a quantity such as 1Gi or 1500Mi" $text) }}
{{- end }}
{{- mulf (float64 $number) (get $units $unit) | floor | int64 }}
{{- end }}

{{/* Bytes that the maps take whose sizes are given: docs/limits.md. A table of flows that grows is there twice, as one of half the size beside it. */}}
{{- define "waggle.mapBytes" -}}
{{- with .Values.maps }}
{{- $flows := max (int64 .flowsMax) (int64 .flowsMin) }}
{{- $halfOpen := ternary (div $flows 4 | int64) (int64 .halfOpenMax) (eq (int64 .halfOpenMax) 0) }}
{{- add (mul $flows 240) (mul $halfOpen 40) (mul .affinityMax 120) (mul .directMax 112) (mul .fragmentsMax 128) (mul .heldFragmentsMax 1617) }}
{{- end }}
{{- end }}

{{/* Refuses values that cannot work, and says what to write. */}}
{{- define "waggle.check" -}}
{{- if not .Values.cleanup }}
{{- if and .Values.apiServer.host .Values.apiServer.kubeconfig.configMap }}
{{- fail "apiServer.host and apiServer.kubeconfig.configMap: write one of them" }}
{{- end }}
{{- if not (or .Values.apiServer.host .Values.apiServer.kubeconfig.configMap) }}
{{- fail "apiServer.host is not set. waggle needs the API server's own address, as the Service \"kubernetes\" is among what it serves: write --set apiServer.host=ADDRESS --set apiServer.port=PORT with those that `kubectl cluster-info` prints, or in a cluster made by kubeadm --set apiServer.kubeconfig.configMap=kube-proxy" }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (include "waggle.isLoopback" .Values.metrics.bindAddress) }}
{{- fail (printf "metrics.serviceMonitor is on, and metrics.bindAddress is %s, where Prometheus cannot ask: write --set metrics.bindAddress=0.0.0.0:10249" .Values.metrics.bindAddress) }}
{{- end }}
{{- with .Values.resources.limits }}
{{- with .memory }}
{{- $limit := include "waggle.bytes" . | int64 }}
{{- $needed := add 268435456 (include "waggle.mapBytes" $ | int64) }}
{{- if lt $limit $needed }}
{{- fail (printf "resources.limits.memory is %v: the maps that values `maps` name and the daemon take %dMi. Raise it, or lower maps.flowsMax" . (div (add $needed 1048575) 1048576)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A flag, if it has a value. */}}
{{- define "waggle.flag" -}}
{{- $value := index . 1 }}
{{- if kindIs "slice" $value }}{{ $value = join "," $value }}{{ end }}
{{- if $value }}
- {{ printf "--%s=%v" (index . 0) $value | quote }}
{{- end }}
{{- end }}

{{- define "waggle.args" -}}
- run
- --hostname-override=$(NODE_NAME)
{{- with .Values }}
{{- if .apiServer.kubeconfig.configMap }}
- --kubeconfig=/etc/waggle/kubeconfig/{{ .apiServer.kubeconfig.key }}
{{- end }}
{{- if .kubeProxy.config.configMap }}
- --config=/etc/waggle/config/{{ .kubeProxy.config.key }}
{{- end }}
{{- include "waggle.flag" (list "kube-proxy-leftovers" .kubeProxy.leftovers) }}
{{- include "waggle.flag" (list "healthz-bind-address" .healthz.bindAddress) }}
{{- include "waggle.flag" (list "metrics-bind-address" .metrics.bindAddress) }}
{{- include "waggle.flag" (list "dataplane" .dataplane) }}
{{- include "waggle.flag" (list "cluster-cidr" .clusterCIDR) }}
{{- include "waggle.flag" (list "detect-local-mode" .detectLocal.mode) }}
{{- include "waggle.flag" (list "pod-bridge-interface" .detectLocal.bridgeInterface) }}
{{- include "waggle.flag" (list "pod-interface-name-prefix" .detectLocal.interfaceNamePrefix) }}
{{- include "waggle.flag" (list "nodeport-addresses" .nodePortAddresses) }}
{{- include "waggle.flag" (list "external-ips" .externalIPs) }}
{{- include "waggle.flag" (list "scheduler" .scheduler) }}
{{- include "waggle.flag" (list "masquerade-all" .masqueradeAll) }}
{{- include "waggle.flag" (list "proxy-name" .proxyName) }}
{{- if ne .dataplane "ipvs" }}
{{- include "waggle.flag" (list "exclude-devices" .excludeDevices) }}
{{- include "waggle.flag" (list "socket-lb" .sockets.mode) }}
{{- include "waggle.flag" (list "flows-max" (int64 .maps.flowsMax)) }}
{{- include "waggle.flag" (list "flows-min" (int64 .maps.flowsMin)) }}
{{- include "waggle.flag" (list "half-open-max" (int64 .maps.halfOpenMax)) }}
{{- include "waggle.flag" (list "affinity-max" (int64 .maps.affinityMax)) }}
{{- include "waggle.flag" (list "direct-max" (int64 .maps.directMax)) }}
{{- include "waggle.flag" (list "fragments-max" (int64 .maps.fragmentsMax)) }}
{{- include "waggle.flag" (list "held-fragments-max" (int64 .maps.heldFragmentsMax)) }}
{{- end }}
{{- range .extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "waggle.probe" -}}
httpGet:
  path: /livez
  port: {{ include "waggle.port" .Values.healthz.bindAddress }}
  {{- with include "waggle.probeHost" .Values.healthz.bindAddress }}
  host: {{ . | quote }}
  {{- end }}
timeoutSeconds: 5
{{- end }}
