// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/benchnet/result"
)

// bench is a run of measurements.
type bench struct {
	*options
	beds []*bed
}

func (b *bench) end() error {
	var errs []error
	for _, x := range b.beds {
		errs = append(errs, x.end())
	}
	b.beds = nil
	return errors.Join(errs...)
}

func (b *bench) say(format string, args ...any) {
	if !b.quiet {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// all builds the beds and measures; with an error it returns what there is by then. In each repeat everything once, each kind of
// measurement by one path after the other. Every other repeat takes the paths in the
// opposite order, so that none always comes after the same other one.
func (b *bench) all(ctx context.Context) (*result.File, error) {
	f, err := b.describe()
	if err != nil {
		return nil, err
	}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	for repeat := range b.repeats {
		for _, n := range b.services {
			rows := b.rows(n)
			if repeat%2 == 1 {
				slices.Reverse(rows)
			}
			for _, m := range b.measurements {
				if err := b.round(ctx, f, m, rows, repeat); err != nil {
					return f, err
				}
			}
		}
	}
	return f, nil
}

// build makes the beds.
func (b *bench) build(ctx context.Context) error {
	if err := removeStale(b.options); err != nil {
		return err
	}
	for _, n := range b.services {
		for _, d := range b.dataplanes {
			began := time.Now()
			x, err := newBed(ctx, b.options, d, n)
			if err != nil {
				return err
			}
			b.beds = append(b.beds, x)
			b.say("%s has %d services, after %.1f s", d.name, n, time.Since(began).Seconds())
		}
	}
	return nil
}

// rows are those with a number of services.
func (b *bench) rows(n int) (all []row) {
	for _, x := range b.beds {
		if x.services == n {
			all = append(all, x.rows()...)
		}
	}
	return all
}

// round measures one kind by each path.
func (b *bench) round(ctx context.Context, f *result.File, m measurement, rows []row, repeat int) error {
	for _, r := range rows {
		if m.raw && (r.led || r.from == result.FromNode) {
			continue
		}
		values, err := m.does(ctx, r, b.seconds)
		if err != nil {
			return fmt.Errorf("%s by %s from the %s with %d services: %w", m.name, r.name, r.from, r.services, err)
		}
		var said []string
		for _, metric := range metrics {
			if v, ok := values[metric.Name]; ok {
				f.Samples = append(f.Samples, result.Sample{Repeat: repeat, Services: r.services, From: r.from, Path: r.name, Metric: metric.Name, Value: v})
				said = append(said, fmt.Sprintf("%s %s %s", metric.Name, figure(v), metric.Unit))
			}
		}
		b.say("%d of %d: %d services, %s, %s: %s", repeat+1, b.repeats, r.services, r.from, r.name, strings.Join(said, ", "))
	}
	return nil
}

// describe says where and how it is measured.
func (b *bench) describe() (*result.File, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	out, err := exec.Command(b.waggle, "version", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("%s version: %w: `make build` makes it", b.waggle, err)
	}
	var binary struct{ Version string }
	if err := json.Unmarshal(out, &binary); err != nil {
		return nil, fmt.Errorf("%s version: %w", b.waggle, err)
	}
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	f := &result.File{
		Date: time.Now().UTC().Format(time.RFC3339), Kernel: unix.ByteSliceToString(name.Release[:]), CPUs: runtime.NumCPU(),
		Version: binary.Version, Seconds: b.seconds, Repeats: b.repeats, Metrics: metrics,
	}
	if _, err := fmt.Sscan(string(text), &f.Load); err != nil {
		return nil, fmt.Errorf("read /proc/loadavg: %w", err)
	}
	for _, d := range b.dataplanes {
		if d.rival {
			f.Rivals = append(f.Rivals, d.name)
		}
	}
	return f, nil
}
