// SPDX-License-Identifier: Apache-2.0

// Package metrics serves what Prometheus scrapes. docs/metrics.md lists it.
package metrics

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Path is where the metrics are.
const Path = "/metrics"

// scrapesAtATime bounds what scrapes may cost: more get 503.
const scrapesAtATime = 3

// maxBackends is how many backends have series of their own unless a scrape asks
// for more: 100,000 have a million series, whose answer is 113 MB and takes
// 1.2 GB of allocations.
const maxBackends = 10_000

// NewHandler answers scrapes at Path. ?backends=true has the series of each
// backend however many there are, ?backends=false leaves them out.
func NewHandler(opts Options) http.Handler {
	failed := &failures{log: opts.Log}
	byWord := make(map[string]http.Handler)
	for word, most := range map[string]int{"": maxBackends, "true": math.MaxInt, "false": 0} {
		byWord[word] = handler(opts, &collector{opts: opts, most: most, failed: failed})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		word := r.URL.Query().Get("backends")
		h, ok := byWord[word]
		if !ok {
			http.Error(w, fmt.Sprintf("backends=%q: write true or false", word), http.StatusBadRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
	return mux
}

func handler(opts Options, c prometheus.Collector) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(opts.Log.Handler(), slog.LevelError),
		MaxRequestsInFlight: scrapesAtATime,
		EnableOpenMetrics:   true,
	})
}
