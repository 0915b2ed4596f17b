// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
)

// gauge is something that must not grow, as it was at the samples.
type gauge struct {
	name string
	// may is how much the last third may be above the first: a part of it, and
	// so many.
	part, more float64
	values     []float64
}

// gauges are the series of a daemon, in the order of judgement.
type gauges struct {
	list []*gauge
	at   []time.Duration
}

func (g *gauges) add(name string, part, more, value float64) {
	i := slices.IndexFunc(g.list, func(have *gauge) bool { return have.name == name })
	if i < 0 {
		i = len(g.list)
		g.list = append(g.list, &gauge{name: name, part: part, more: more})
	}
	g.list[i].values = append(g.list[i].values, value)
}

// sample reads all gauges of the daemon. They are printed every ten seconds.
func (c *churn) sample(at time.Duration) {
	c.t.Helper()
	g := &c.gauges
	dir := fmt.Sprintf("/proc/%d", c.run.PID)
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		c.t.Fatal(err)
	}
	g.add("RSS in KiB", 0.1, 8<<10, c.statusKiB(dir, "VmRSS"))
	g.add("file descriptors", 0, 2, float64(len(fds)))
	m := c.scrape()
	g.add("goroutines", 0, 5, m.sum("go_goroutines"))
	g.add("map memory in KiB", 0.02, 1<<10, float64(c.mapMemory())/1024)
	g.add("failed services", 0, 0, m.sum("waggle_failed_services")+m.sum("waggle_refused_services"))
	g.add("audit difference", 0, 0, m.sum("waggle_audit_difference"))
	if len(g.at) == 0 || at/(10*time.Second) != g.at[len(g.at)-1]/(10*time.Second) {
		fmt.Printf("%v: %s; %d connections, %d failed\n", at.Round(time.Second), g.last(), c.done.Load(), c.failed.Load())
	}
	g.at = append(g.at, at)
}

// last are the newest values.
func (g *gauges) last() string {
	var out []string
	for _, one := range g.list {
		out = append(out, fmt.Sprintf("%s %.0f", one.name, one.values[len(one.values)-1]))
	}
	return strings.Join(out, ", ")
}

// statusKiB is a field in kB of proc_pid_status(5); dir is the process's in /proc.
func (s *scene) statusKiB(dir, field string) float64 {
	s.t.Helper()
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == field+":" {
			if n, err := strconv.ParseFloat(words[1], 64); err == nil {
				return n
			}
		}
	}
	s.t.Fatalf("no %s in\n%s", field, status)
	return 0
}

// mapMemory is what the pinned maps hold, by the kernel's own count.
func (s *scene) mapMemory() (bytes uint64) {
	s.t.Helper()
	for _, info := range s.pinnedMaps() {
		n, _ := info.Memlock()
		bytes += n
	}
	return bytes
}

// median of a part of a series.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// judge compares the last third of each series with the first, after a fifth for
// the daemon to warm up: each by its median, as a sample may be of an odd moment.
// What must be 0 must be so in every sample.
func (g *gauges) judge() (report []string, err error) {
	if len(g.at) < fewestSamples {
		return nil, fmt.Errorf("%d samples show nothing", len(g.at))
	}
	var errs []error
	for _, one := range g.list {
		values := one.values[len(one.values)/5:]
		third := len(values) / 3
		first, last := median(values[:third]), median(values[len(values)-third:])
		report = append(report, fmt.Sprintf("%s: first third %.0f, last third %.0f, lowest %.0f, highest %.0f of %d samples",
			one.name, first, last, slices.Min(values), slices.Max(values), len(values)))
		switch {
		case one.part == 0 && one.more == 0:
			if slices.Max(one.values) != 0 {
				errs = append(errs, fmt.Errorf("%s is not always 0: %.0f", one.name, one.values))
			}
		case last > first*(1+one.part)+one.more:
			errs = append(errs, fmt.Errorf("%s grows: %.0f", one.name, one.values))
		}
	}
	return report, errors.Join(errs...)
}

// The test of the test: a series that grows is found, one that is only odd at
// times is not.
func TestWhatGrowsIsFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		value func(i int) float64
		grows bool
	}{
		{"flat", func(int) float64 { return 90 }, false},
		{"warms up", func(i int) float64 { return 90 + float64(min(i, 19)) }, false},
		{"odd at times", func(i int) float64 { return 90 + float64(100*(i%4/3)) }, false},
		{"a few more each time", func(i int) float64 { return 90 + float64(i)/4 }, true},
		{"more at once", func(i int) float64 { return 90 + float64(20*(i/60)) }, true},
	} {
		g := &gauges{}
		for i := range 100 {
			g.add("descriptors", 0.1, 2, c.value(i))
			g.add("differences", 0, 0, 0)
			g.at = append(g.at, time.Duration(i)*time.Second)
		}
		if _, err := g.judge(); (err != nil) != c.grows {
			t.Errorf("%s: %v", c.name, err)
		}
		g.list[1].values[50] = 1
		if _, err := g.judge(); err == nil || !strings.Contains(err.Error(), "differences is not always 0") {
			t.Errorf("%s: a difference is not found: %v", c.name, err)
		}
	}
}

// fill is how many elements of maps are in use, by map.
type fill map[string]int

// differs says where a fill is another.
func (f fill) differs(want fill) error {
	var errs []error
	for name, n := range want {
		if f[name] != n {
			errs = append(errs, fmt.Errorf("%s: %d in use, want %d", name, f[name], n))
		}
	}
	return errors.Join(errs...)
}

// pin opens a pinned map for reading and writing.
func (s *scene) pin(name string) *ebpf.Map {
	s.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, name), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// fill counts what is in use, in the maps that give back; of masq_bits those that
// belong to no backend.
func (s *scene) fill() fill {
	s.t.Helper()
	f := make(fill)
	fillOf(s, f, "flows", func(bpf.LBFlowKey, *bpf.LBFlow) int { return 1 })
	fillOf(s, f, "config/vips", func(bpf.LBVipKey, *bpf.LBVip) int { return 1 })
	fillOf(s, f, "config/services", func(_ uint32, v *bpf.LBService) int { return min(1, bits.Len64(v.Hash)) })
	fillOf(s, f, "config/backends", func(_ uint32, v *bpf.LBBackend) int { return min(1, bits.Len64(v.Hash)) })
	fillOf(s, f, "config/backend_ids", func(_ uint32, v *uint32) int { return int(min(1, *v)) })
	fillOf(s, f, "config/service_info", func(uint64, *bpf.LBServiceName) int { return 1 })
	fillOf(s, f, "load", func(_ uint32, v *bpf.LBBackendLoad) int { return int(v.Active + v.Inactive) })
	fillOf(s, f, "half_open_ends", func(_ uint32, v *bpf.LBHalfOpenRing) int { return int(v.Count) })
	backends := make(map[uint32]uint64)
	for _, name := range []string{"config/vip_bits", "config/backend_bits", "config/peer_bits"} {
		fillOf(s, f, name, func(at uint32, v *uint64) int {
			if name == "config/backend_bits" {
				backends[at] = *v
			}
			return bits.OnesCount64(*v)
		})
	}
	// a larger configuration takes over a bit for every backend with its address
	fillOf(s, f, "config/masq_bits", func(at uint32, v *uint64) int { return bits.OnesCount64(*v &^ backends[at]) })
	return f
}

func fillOf[K, V any](s *scene, f fill, name string, count func(K, *V) int) {
	s.t.Helper()
	m := s.pin(name)
	defer m.Close()
	f[name] = 0
	err := batch.Each(m, func(k K, v *V) error {
		f[name] += count(k, v)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// wantAudit wants the counts of connections to be what the flow table holds.
func (s *scene) wantAudit() {
	s.t.Helper()
	var stats struct {
		Counts struct{ Backends, Skipped, Difference int }
	}
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &stats); err != nil {
		s.t.Fatal(err)
	}
	if c := stats.Counts; c.Backends == 0 || c.Difference != 0 {
		s.t.Errorf("the audit says %+v", c)
	}
}
