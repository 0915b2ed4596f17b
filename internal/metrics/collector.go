// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"cmp"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// Dataplane is what is asked at every scrape.
type Dataplane interface {
	Read() (*lb.Snapshot, error)
	Counters() (dataplane.Counters, error)
	Status() (dataplane.Status, error)
}

// Build is what the binary was built from. Modified says that the revision is not all.
type Build struct {
	Version, Revision, Go string
	Modified              bool
}

// Options of a Handler.
type Options struct {
	Dataplane Dataplane
	// Loop returns the state of the loop.
	Loop func() control.Status
	// Reasons are all drop reasons, those that never occurred too.
	Reasons []string
	Build   Build
	Log     *slog.Logger
	// Kube, if it is set, has kube-proxy's metrics.
	Kube *Kube
	// Mode is the dataplane, which /proxyMode says; "": there is no such path. Reason is
	// one word for why it is that one.
	Mode, Reason string
	// Config returns what /configz has, in JSON; nil: there is no such path.
	Config func() any
	// Profiling serves /debug/pprof/.
	Profiling bool
}

// collector reads what there is at every scrape and keeps nothing. Errors leave
// out what could not be read.
type collector struct {
	opts Options
	// most is how many backends may have series of their own: if there are more
	// none has.
	most   int
	failed *failures
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range definitions() {
		if c.most > 0 || !d.perBackend {
			ch <- d.desc
		}
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := scrape{ch}
	b := c.opts.Build
	s.send(buildInfo, 1, b.Version, b.Revision, b.Go)
	if c.opts.Mode != "" {
		s.send(dataplaneInfo, 1, c.opts.Mode, c.opts.Reason)
	}
	c.collectLoop(s)
	if status, err := c.opts.Dataplane.Status(); c.failed.note(err) {
		collectStatus(s, &status)
	}
	counters, err := c.opts.Dataplane.Counters()
	if c.failed.note(err) {
		c.collectDrops(s, counters.Drops)
		if snap, err := c.opts.Dataplane.Read(); c.failed.note(err) {
			c.collectServices(s, snap, counters.Backends)
		}
	}
	s.send(collectErrors, float64(c.failed.count()))
}

func (c *collector) collectLoop(s scrape) {
	l := c.opts.Loop()
	s.send(waiting, float64(len(l.Waiting())))
	s.send(refused, float64(len(l.Refused)))
	s.send(failedServices, float64(len(l.Report.Failed)))
	s.send(applies, float64(l.Applies-l.Incomplete), "complete")
	s.send(applies, float64(l.Incomplete), "incomplete")
	if l.Applies > 0 {
		s.send(applyTime, seconds(l.Applied))
		s.send(applyDuration, l.Took.Seconds())
	}
}

// collectStatus leaves out an audit that was not there yet: 0 would say that all
// is well.
func collectStatus(s scrape, st *dataplane.Status) {
	if st.Limit > 0 { // IPVS has no such table
		s.send(generation, float64(st.Generation))
		s.send(flowEntries, float64(st.Entries))
		s.send(flowEntriesLimit, float64(st.Limit))
		s.send(flowEntriesMax, float64(st.Max))
		s.send(halfOpenFlows, float64(st.HalfOpen))
	}
	for what, n := range st.Mended {
		s.send(mended, float64(n), what)
	}
	for what, n := range st.Followed {
		s.send(followed, float64(n), what)
	}
	s.send(ended, float64(st.SocketsEnded))
	s.send(broken, float64(len(st.Broken)))
	collectXDP(s, st.Devices)
	if st.Audited.IsZero() {
		return
	}
	s.send(auditDifference, float64(st.Audit.Difference))
	s.send(auditBackends, float64(st.Audit.Compared), "compared")
	s.send(auditBackends, float64(st.Audit.Skipped), "skipped")
	s.send(auditTime, seconds(st.Audited))
	s.send(auditDuration, st.Audit.Took.Seconds())
}

// collectXDP says nothing of a dataplane without it.
func collectXDP(s scrape, devices []dataplane.Device) {
	modes := map[string]int{"native": 0, "generic": 0, "off": 0}
	for _, d := range devices {
		modes[cmp.Or(d.XDP, "off")]++
	}
	if len(devices) == 0 {
		return
	}
	for mode, n := range modes {
		s.send(xdpDevices, float64(n), mode)
	}
}

func (c *collector) collectDrops(s scrape, counts map[string]uint64) {
	known := make(map[string]bool, len(c.opts.Reasons))
	for _, reason := range c.opts.Reasons {
		known[reason] = true
		s.send(drops, float64(counts[reason]), reason)
	}
	for reason, n := range counts {
		if !known[reason] {
			s.send(drops, float64(n), reason)
		}
	}
}

// The states of waggle_service_backends.
const (
	usable = iota
	quiesced
	unhealthy
	draining
)

var backendStates = [...]string{usable: "usable", quiesced: "quiesced", unhealthy: "unhealthy", draining: "draining"}

func stateOf(b *lb.Backend) int {
	switch {
	case b.Usable():
		return usable
	case b.Unhealthy:
		return unhealthy
	}
	return quiesced
}

// collectServices has a service's backends that have left it, and their counters,
// as long as they have flows.
func (c *collector) collectServices(s scrape, snap *lb.Snapshot, counters map[lb.BackendID]dataplane.BackendCounters) {
	states := make(map[lb.ServiceID]*[len(backendStates)]int, snap.Len())
	weights := make(map[lb.BackendID]uint16, len(counters))
	for svc := range snap.All() {
		n := &[len(backendStates)]int{}
		states[svc.ID] = n
		for i := range svc.Backends {
			b := &svc.Backends[i]
			n[stateOf(b)]++
			weights[lb.BackendID{Service: svc.ID, Addr: b.Addr}] = b.Weight
		}
		s.send(serviceInfo, 1, text(svc.ID.Name), svc.ID.Family.String(), svc.Scheduler)
	}
	each := len(counters) <= c.most
	if each {
		s.send(backendsLeftOut, 0)
	} else {
		s.send(backendsLeftOut, float64(len(counters)))
	}
	for id, b := range counters {
		weight, in := weights[id]
		if n := states[id.Service]; n != nil && !in {
			n[draining]++
		}
		if each {
			collectBackend(s, id, &b)
			if in {
				s.send(backendWeight, float64(weight), labelsOf(id)...)
			}
		}
	}
	for id, n := range states {
		for state, word := range backendStates {
			s.send(serviceBackends, float64(n[state]), text(id.Name), id.Family.String(), word)
		}
	}
}

func labelsOf(id lb.BackendID) []string {
	return []string{text(id.Service.Name), id.Service.Family.String(), id.Addr.String()}
}

func collectBackend(s scrape, id lb.BackendID, b *dataplane.BackendCounters) {
	labels := labelsOf(id)
	with := func(word string) []string { return append(labels[:len(labels):len(labels)], word) }
	s.send(backendConnections, float64(b.Connections), labels...)
	s.send(backendPackets, float64(b.InPackets), with("in")...)
	s.send(backendPackets, float64(b.OutPackets), with("out")...)
	s.send(backendBytes, float64(b.InBytes), with("in")...)
	s.send(backendBytes, float64(b.OutBytes), with("out")...)
	s.send(backendFlows, float64(b.Active), with("active")...)
	s.send(backendFlows, float64(b.Inactive), with("inactive")...)
	overloaded := 0.0
	if b.Overloaded {
		overloaded = 1
	}
	s.send(backendOverloaded, overloaded, labels...)
}

// scrape is where metrics go.
type scrape struct{ ch chan<- prometheus.Metric }

// send panics if the labels are not those of the definition: a mistake here.
func (s scrape) send(d *definition, value float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d.desc, d.kind, value, labels...)
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1e3 }

// text makes a name a label's value, which must be UTF-8.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// failures counts errors, and logs each once, until it is another.
type failures struct {
	log *slog.Logger

	mu   sync.Mutex
	n    uint64
	last string
}

// note reports whether there was none.
func (f *failures) note(err error) bool {
	if err == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if s := err.Error(); s != f.last {
		f.last = s
		f.log.Error("some metrics are missing", "error", err)
	}
	return false
}

func (f *failures) count() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}
