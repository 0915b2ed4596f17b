// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"encoding/json"
	"io"
	"time"
)

// What a Rate counts.
const (
	TCPConnections = "tcp-connections" // new connections, one request each
	UDPRoundTrips  = "udp-round-trips" // questions answered, on a few flows
	TCPBulk        = "tcp-bulk"        // bytes of one stream, each way at once
)

// Result is what a demo saw. Its JSON form is a documented interface: within
// an apiVersion fields are added, never changed or removed.
type Result struct {
	APIVersion string `json:"apiVersion"` // "waggle.dev/v1alpha1"
	Kind       string `json:"kind"`       // "DemoResult"
	// OK is true if everything was as promised, else Problems says what not.
	OK            bool           `json:"ok"`
	Problems      []string       `json:"problems"`
	Servers       []Server       `json:"servers"`
	Distributions []Distribution `json:"distributions"`
	Rates         []Rate         `json:"rates"`
}

// Server is one real server.
type Server struct {
	Name      string   `json:"name"`
	Weight    uint16   `json:"weight"`
	Addresses []string `json:"addresses"` // address:port, IPv4 first
}

// Distribution is how the flows of one service were divided.
type Distribution struct {
	Scheduler string `json:"scheduler"`
	Protocol  string `json:"protocol"` // "TCP" or "UDP"
	Family    string `json:"family"`   // "ipv4" or "ipv6"
	VIP       string `json:"vip"`      // address:port
	Flows     int    `json:"flows"`    // attempted
	Failed    int    `json:"failed"`   // refused, timed out or answered wrongly
	// Exact is true if the scheduler's counts are known beforehand and so
	// judged; for others min and max are what the weights alone would give.
	Exact bool `json:"exact"`
	OK    bool `json:"ok"`
	// Servers are in the order of Result.Servers.
	Servers []Share `json:"servers"`
}

// Share is what one server got of a Distribution, and what it should have got.
type Share struct {
	Name string `json:"name"`
	Got  int    `json:"got"`
	Min  int    `json:"min"`
	Max  int    `json:"max"`
}

// Rate is how often something was done in how long.
type Rate struct {
	What    string  `json:"what"`   // a constant of this package
	Family  string  `json:"family"` // "ipv4" or "ipv6"
	Count   int64   `json:"count"`
	Seconds float64 `json:"seconds"`
	// PerSecond is Count by Seconds; for TCPBulk bytes a second, each way.
	PerSecond float64 `json:"perSecond"`
	OK        bool    `json:"ok"`
}

func newResult(backends []backend) *Result {
	r := &Result{
		APIVersion: "waggle.dev/v1alpha1", Kind: "DemoResult", OK: true, Problems: []string{},
		Servers: []Server{}, Distributions: []Distribution{}, Rates: []Rate{},
	}
	for _, b := range backends {
		r.Servers = append(r.Servers, Server{b.name, b.weight, []string{b.v4.String(), b.v6.String()}})
	}
	return r
}

func (r *Result) problem(text string) {
	r.OK = false
	r.Problems = append(r.Problems, text)
}

func newRate(what, family string, m measurement) Rate {
	seconds := m.elapsed.Seconds()
	out := Rate{What: what, Family: family, Count: m.count, Seconds: seconds, OK: m.err == nil && m.count > 0}
	if m.elapsed > 0 {
		out.PerSecond = float64(m.count) / seconds
	}
	return out
}

// WriteJSON writes the result as one indented JSON document.
func (r *Result) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// DefaultRateTime is how long a rate is measured: long enough to be steady,
// short enough that the whole demo takes seconds.
const DefaultRateTime = time.Second
