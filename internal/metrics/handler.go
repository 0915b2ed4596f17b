// SPDX-License-Identifier: Apache-2.0

// Package metrics serves what Prometheus scrapes. docs/metrics.md lists it.
package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/pprof"

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

// NewHandler answers scrapes at Path, and what else kube-proxy answers there: /healthz,
// whether anybody is there, and what Options have. ?backends=true of Path has the series of
// each backend however many there are, ?backends=false leaves them out.
func NewHandler(opts Options) http.Handler {
	failed := &failures{log: opts.Log}
	byWord := make(map[string]http.Handler)
	for word, most := range map[string]int{"": maxBackends, "true": math.MaxInt, "false": 0} {
		all := []prometheus.Collector{
			&collector{opts: opts, most: most, failed: failed}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		}
		if opts.Kube != nil {
			all = append(all, opts.Kube)
		}
		byWord[word] = handler(opts, all...)
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
	mux.HandleFunc("/healthz", plain(func() string { return "ok" }))
	if opts.Mode != "" {
		mux.HandleFunc("/proxyMode", plain(func() string { return opts.Mode }))
	}
	if opts.Kube != nil {
		mux.Handle("GET "+Path+"/slis", handler(opts, slis{opts.Kube}))
	}
	if opts.Config != nil {
		mux.HandleFunc("/configz", configz(opts.Config))
	}
	if opts.Profiling {
		profiles(mux)
	}
	return mux
}

func handler(opts Options, all ...prometheus.Collector) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(all...)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(opts.Log.Handler(), slog.LevelError),
		MaxRequestsInFlight: scrapesAtATime,
		EnableOpenMetrics:   true,
	})
}

func plain(of func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, of()) // who does not take it asked for nothing
	}
}

func configz(of func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.Marshal(of())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(b)
	}
}

// profiles serves Go's, where it does by itself at the server that nobody starts here.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
