// SPDX-License-Identifier: Apache-2.0

// Package health tells probes and load balancers how this machine's proxy is, as
// kube-proxy does: at /healthz and /livez, and at the health check node ports of Services.
package health

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// DefaultStale is twice kube-proxy's syncPeriod.
const DefaultStale = 60 * time.Second

// Options of a Proxy.
type Options struct {
	// Families are those that the machine has.
	Families []lb.Family
	// Stale is how long what is wanted may not be applied before the proxy is not well;
	// 0: DefaultStale.
	Stale time.Duration
	// Progress returns when the oldest came of what is wanted and not applied, and when
	// something was applied last; zero times if there is none. A proxy that waits for
	// nothing is well: nothing is wanted before its sources have been heard, and while
	// they are away what they said stays.
	Progress func() (overdue, synced time.Time)
	// Answered, if it is set, is told of each answer: its path without the slash, and its
	// status code.
	Answered func(path string, code int)
}

// Proxy says whether the proxy is well. Safe for concurrent use.
type Proxy struct {
	opts     Options
	began    time.Time
	eligible atomic.Bool
}

// NewProxy makes one, on a machine that is not eligible yet.
func NewProxy(o Options) *Proxy {
	if o.Stale == 0 {
		o.Stale = DefaultStale
	}
	return &Proxy{opts: o, began: time.Now()}
}

// SetEligible says whether load balancers may choose this machine.
func (p *Proxy) SetEligible(is bool) { p.eligible.Store(is) }

// Healthy reports whether what is wanted is applied, or soon enough.
func (p *Proxy) Healthy() bool { return p.status().Healthy }

// status is an answer's body, in kube-proxy's words.
type status struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyStatus `json:"status,omitempty"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// FamilyName is what Kubernetes calls a family.
func FamilyName(f lb.Family) string {
	if f == lb.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// status has the same for all families: they are applied together.
func (p *Proxy) status() status {
	overdue, synced := p.opts.Progress()
	if synced.IsZero() {
		synced = p.began
	}
	now := time.Now()
	s := status{
		LastUpdated: synced, CurrentTime: now, Status: make(map[string]familyStatus),
		Healthy: overdue.IsZero() || now.Sub(overdue) < p.opts.Stale,
	}
	for _, f := range p.opts.Families {
		s.Status[FamilyName(f)] = familyStatus{synced, s.Healthy}
	}
	return s
}

// Handler answers at /healthz whether the machine may get new connections, and at /livez
// whether the process does its work: a machine that is to go may not, and its proxy must
// work until the end.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, eligible := p.status(), p.eligible.Load()
		s.NodeEligible = &eligible
		p.answer(w, "healthz", s, s.Healthy && eligible)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		s := p.status()
		p.answer(w, "livez", s, s.Healthy)
	})
	return mux
}

func (p *Proxy) answer(w http.ResponseWriter, path string, s status, good bool) {
	code := http.StatusServiceUnavailable
	if good {
		code = http.StatusOK
		s.LastUpdated = s.CurrentTime // probes of old take another time for a hung proxy
	}
	if p.opts.Answered != nil {
		p.opts.Answered(path, code)
	}
	head(w)
	w.WriteHeader(code)
	body, err := json.Marshal(s)
	if err != nil {
		return // a time after the year 9999
	}
	_, _ = w.Write(body) // who does not wait for it has the code
}

func head(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// Families returns those that this machine has: IPv4, and IPv6 unless the kernel lacks it
// or it is turned off.
func Families() []lb.Family { return familiesIn("/proc") }

func familiesIn(proc string) []lb.Family {
	out := []lb.Family{lb.IPv4}
	off, err := os.ReadFile(proc + "/sys/net/ipv6/conf/all/disable_ipv6")
	if _, missing := os.Stat(proc + "/net/if_inet6"); missing == nil && (err != nil || strings.TrimSpace(string(off)) != "1") {
		out = append(out, lb.IPv6)
	}
	return out
}
