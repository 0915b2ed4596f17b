// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/sync/control"
)

// KubeOptions are those of a Kube.
type KubeOptions struct {
	// Families are those that the machine has, in Kubernetes' words: "IPv4".
	Families []string
	// Progress returns that of the loop.
	Progress func() control.Progress
	Build    Build
}

// Kube has what kube-proxy would have measured, by its names. It is told, unlike the rest:
// of what happened before it was asked nothing else knows. Safe for concurrent use.
type Kube struct {
	opts  KubeOptions
	began time.Time

	syncs, programming, requestTime, limited, requestSize, responseSize *prometheus.HistogramVec
	healthz, livez, requests, requestRetries                            *prometheus.CounterVec
	kept                                                                []prometheus.Collector // all of these

	mu                             sync.Mutex
	services, slices               float64               // guarded by mu
	servicesPending, slicesPending float64               // guarded by mu
	noLocal                        map[[2]string]float64 // by policy and family; guarded by mu
	last                           map[string]bool       // answers of health checks, by type; guarded by mu
	answers                        map[[2]string]float64 // by type and status; guarded by mu
}

// NewKube makes one.
func NewKube(o KubeOptions) *Kube {
	k := &Kube{opts: o, began: time.Now(), noLocal: make(map[[2]string]float64), last: make(map[string]bool), answers: make(map[[2]string]float64)}
	k.syncs, k.programming = k.histogram(syncs), k.histogram(programming)
	k.requestTime, k.limited = k.histogram(requestTime), k.histogram(limited)
	k.requestSize, k.responseSize = k.histogram(requestSize), k.histogram(responseSize)
	k.healthz, k.livez = k.counter(healthz), k.counter(livez)
	k.requests, k.requestRetries = k.counter(requests), k.counter(requestRetries)
	// Series that begin at 0 show their first increase.
	for _, f := range o.Families {
		k.syncs.WithLabelValues(f)
		k.programming.WithLabelValues(f)
		k.SetNoLocal(f, 0, 0)
	}
	for _, code := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		k.healthz.WithLabelValues(strconv.Itoa(code))
		k.livez.WithLabelValues(strconv.Itoa(code))
	}
	return k
}

func (k *Kube) histogram(d *definition) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.name, Help: d.help, Buckets: d.buckets}, d.labels)
	k.kept = append(k.kept, v)
	return v
}

func (k *Kube) counter(d *definition) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.name, Help: d.help}, d.labels)
	k.kept = append(k.kept, v)
	return v
}

// Wrote is told how long writing a state to the kernel took.
func (k *Kube) Wrote(took time.Duration) {
	for _, f := range k.opts.Families {
		k.syncs.WithLabelValues(f).Observe(took.Seconds())
	}
}

// Programmed is told how long after its reason a change of endpoints was in the kernel.
func (k *Kube) Programmed(family string, after time.Duration) {
	k.programming.WithLabelValues(family).Observe(after.Seconds())
}

// Changed is told how many Services and EndpointSlices changed, Applied how many of these
// changes are in the kernel.
func (k *Kube) Changed(services, slices int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.services += float64(services)
	k.slices += float64(slices)
	k.servicesPending += float64(services)
	k.slicesPending += float64(slices)
}

// Applied is Changed's counterpart.
func (k *Kube) Applied(services, slices int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.servicesPending -= float64(services)
	k.slicesPending -= float64(slices)
}

// SetNoLocal is told how many service ports of a family have endpoints, but none here,
// where internal or external traffic is to stay here.
func (k *Kube) SetNoLocal(family string, internal, external int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.noLocal[[2]string{"internal", family}] = float64(internal)
	k.noLocal[[2]string{"external", family}] = float64(external)
}

// Answered is told of an answer at /healthz or /livez, without the slash.
func (k *Kube) Answered(path string, code int) {
	of := k.livez
	if path == "healthz" {
		of = k.healthz
	}
	of.WithLabelValues(strconv.Itoa(code)).Inc()
	status := "error"
	if code == http.StatusOK {
		status = "success"
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last[path] = code == http.StatusOK
	k.answers[[2]string{path, status}]++
}

// Done, and what follows, are told of requests to the API server.
func (k *Kube) Done(code, method, host string) {
	k.requests.WithLabelValues(code, method, host).Inc()
}

// Retried is told of one that is sent again.
func (k *Kube) Retried(code, verb, host string) {
	k.requestRetries.WithLabelValues(code, verb, host).Inc()
}

// Took is told how long an answer took.
func (k *Kube) Took(verb, host string, d time.Duration) {
	k.requestTime.WithLabelValues(verb, host).Observe(d.Seconds())
}

// Waited is told how long one waited before it was sent.
func (k *Kube) Waited(verb, host string, d time.Duration) {
	k.limited.WithLabelValues(verb, host).Observe(d.Seconds())
}

// Sent is told a request's size.
func (k *Kube) Sent(verb, host string, bytes float64) {
	k.requestSize.WithLabelValues(verb, host).Observe(bytes)
}

// Received is told an answer's size.
func (k *Kube) Received(verb, host string, bytes float64) {
	k.responseSize.WithLabelValues(verb, host).Observe(bytes)
}

// Describe implements prometheus.Collector.
func (k *Kube) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range kubeDefinitions() {
		ch <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (k *Kube) Collect(ch chan<- prometheus.Metric) {
	for _, c := range k.kept {
		c.Collect(ch)
	}
	s := scrape{ch}
	p := k.opts.Progress()
	if p.Queued.IsZero() {
		p.Queued = k.began
	}
	for _, f := range k.opts.Families {
		s.send(queued, seconds(p.Queued), f)
		if !p.Synced.IsZero() {
			s.send(synced, seconds(p.Synced), f)
		}
	}
	b := k.opts.Build
	major, minor := parts(b.Version)
	tree := "clean"
	if b.Modified {
		tree = "dirty"
	}
	s.send(kubeBuildInfo, 1, major, minor, b.Version, b.Revision, tree, "", b.Go, runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH)
	k.mu.Lock()
	defer k.mu.Unlock()
	s.send(serviceChanges, k.services)
	s.send(serviceChangesPending, k.servicesPending)
	s.send(sliceChanges, k.slices)
	s.send(sliceChangesPending, k.slicesPending)
	for of, n := range k.noLocal {
		s.send(noLocal, n, of[0], of[1])
	}
}

// parts returns those of "v1.2.3"; none of what is no such version.
func parts(version string) (major, minor string) {
	version, ok := strings.CutPrefix(version, "v")
	all := strings.SplitN(version, ".", 3)
	if !ok || len(all) < 3 {
		return "", ""
	}
	return all[0], all[1]
}

// slis are what /metrics/slis has: whether health checks are good, for who takes account
// of that alone and often.
type slis struct{ *Kube }

// Describe implements prometheus.Collector.
func (s slis) Describe(ch chan<- *prometheus.Desc) {
	ch <- healthcheck.desc
	ch <- healthchecks.desc
}

// Collect implements prometheus.Collector.
func (s slis) Collect(ch chan<- prometheus.Metric) {
	out := scrape{ch}
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, good := range s.last {
		value := 0.0
		if good {
			value = 1
		}
		out.send(healthcheck, value, "proxy", path)
	}
	for of, n := range s.answers {
		out.send(healthchecks, n, "proxy", of[0], of[1])
	}
}
