// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/httpd"
)

const (
	healthzFlag  = "healthz-bind-address"
	metricsFlag  = "metrics-bind-address"
	hardFailFlag = "bind-address-hard-fail"
)

// Where kube-proxy answers.
const (
	defaultHealthz = "0.0.0.0:10256"
	defaultMetrics = "127.0.0.1:10249"
)

// listenFlags say where the daemon answers by HTTP; their names are kube-proxy's.
type listenFlags struct {
	healthz, metrics    string // as written
	hardFail, profiling bool

	given                    func(name string) bool // whether a flag was written
	healthzAddr, metricsAddr netip.AddrPort         // made of them; invalid: nowhere
}

func (f *listenFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	f.given = s.Changed
	s.StringVar(&f.healthz, healthzFlag, "", "answer /healthz and /livez at this ADDRESS:PORT; empty: nowhere; left out: with an API server "+defaultHealthz+", else nowhere")
	s.StringVar(&f.metrics, metricsFlag, "", "serve Prometheus metrics at this ADDRESS:PORT; empty: nowhere; left out: with an API server "+defaultMetrics+", else nowhere")
	s.BoolVar(&f.hardFail, hardFailFlag, false, "end if an address to answer at cannot be had, instead of trying again every 5 seconds; left out: with an API server false, else true")
	s.BoolVar(&f.profiling, "profiling", false, "serve Go's profiles where metrics are, at /debug/pprof/")
}

// validate reads the addresses, and fills in what was left out.
func (f *listenFlags) validate(withAPIServer bool) error {
	for _, a := range []struct {
		flag, unset string
		written     *string
		to          *netip.AddrPort
	}{{healthzFlag, defaultHealthz, &f.healthz, &f.healthzAddr}, {metricsFlag, defaultMetrics, &f.metrics, &f.metricsAddr}} {
		if withAPIServer && !f.given(a.flag) {
			*a.written = a.unset
		}
		if *a.written == "" {
			continue
		}
		var err error
		if *a.to, err = httpd.ParseAddr(*a.written); err != nil {
			return fmt.Errorf("--%s: %w", a.flag, err)
		}
	}
	if !f.given(hardFailFlag) {
		f.hardFail = !withAPIServer
	}
	if f.profiling && !f.metricsAddr.IsValid() {
		return errors.New("--profiling serves profiles where metrics are: write --" + metricsFlag)
	}
	return nil
}
