// SPDX-License-Identifier: Apache-2.0

// Package demo is `waggle demo`: it builds a small network out of network
// namespaces (package netlab), runs the real `waggle run` in the middle of it,
// sends real traffic through it and says whether what came out is what the
// rules promise. Everything is removed at the end, whatever happened.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// Limits of the options. A server is a namespace with four sockets.
const (
	maxServers = 32
	clients    = 2
)

const defaultPinRoot = "/sys/fs/bpf"

// Options say what Start builds.
type Options struct {
	// PinRoot is the directory of the pin path, "/sys/fs/bpf" if empty;
	// `waggle run` mounts the BPF file system there if it is missing.
	PinRoot string
	// Exe is the waggle binary, to run `run` and `cleanup` with.
	Exe string
	// Schedulers are the schedulers to show, each for TCP and UDP, IPv4 and IPv6.
	Schedulers []string
	// Weights are those of the real servers, one server for each.
	Weights []uint16
	// Flows is how many TCP connections and UDP flows are counted per service.
	Flows int
	// BulkBytes is how much is sent each way to measure the throughput.
	BulkBytes int64
	// RateTime is how long each rate is measured.
	RateTime time.Duration
	// Progress takes a line for each step; with TTY one line that changes.
	Progress io.Writer
	TTY      bool
}

// Check says what is wrong with the options, without doing anything.
func (o *Options) Check() error {
	switch {
	case len(o.Weights) == 0 || len(o.Weights) > maxServers:
		return fmt.Errorf("%d weights: write 1 to %d, one for each real server", len(o.Weights), maxServers)
	case !anyPositive(o.Weights):
		return errors.New("every weight is 0: at least one server must take connections, write a weight of 1 or more")
	}
	if most := maxFlows(len(o.Schedulers)); o.Flows < 1 || o.Flows > most {
		return fmt.Errorf("%d flows per service: write 1 to %d", o.Flows, most)
	}
	return nil
}

func anyPositive(weights []uint16) bool {
	for _, w := range weights {
		if w > 0 {
			return true
		}
	}
	return false
}

// Demo is a running demo. Its methods are called from one goroutine.
type Demo struct {
	opts     Options
	progress *progress
	lab      *netlab.Lab
	echoes   []io.Closer
	daemon   *daemon
	services []service
	backends []backend
	ports    []uint16 // next local port of each client
	probe    uint16   // next local port of a probe
	dir      string   // temporary files
	pinPath  string
	log      string // the daemon's log
}

// Start builds the network, starts the servers and the daemon, and returns
// when every service answers. The caller calls Close, unless there is an error.
func Start(ctx context.Context, opts Options) (*Demo, error) {
	if err := opts.Check(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the demo makes network namespaces and loads eBPF programs, which needs root: run it as root, or with sudo")
	}
	if opts.PinRoot == "" {
		opts.PinRoot = defaultPinRoot
	}
	d := &Demo{
		opts:     opts,
		progress: &progress{w: opts.Progress, tty: opts.TTY},
		services: services(opts.Schedulers),
		probe:    firstProbe,
		pinPath:  filepath.Join(opts.PinRoot, fmt.Sprintf("waggle-demo-%d", os.Getpid())),
	}
	if err := d.start(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.progress.done()
	return d, nil
}

func (d *Demo) start(ctx context.Context) error {
	d.removeStale(ctx)
	var err error
	if d.dir, err = os.MkdirTemp("", fmt.Sprintf("waggle-demo-%d-", os.Getpid())); err != nil {
		return err
	}
	d.log = filepath.Join(d.dir, "run.log")
	d.progress.step("building %d clients, a director and %d real servers out of network namespaces", clients, len(d.opts.Weights))
	d.lab, err = netlab.New(netlab.Options{
		Prefix: "demo", Clients: clients, Servers: len(d.opts.Weights),
		VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}, AssignVIPs: true,
	})
	if err != nil {
		return err
	}
	// The rates' source ports are the kernel's choice: keep them apart from
	// those that are counted.
	for _, c := range d.lab.Clients() {
		d.ports = append(d.ports, firstFlowPort)
		err := c.SetSysctl("net/ipv4/ip_local_port_range", fmt.Sprintf("%d 65535", lastFlowPort+1))
		if err != nil {
			return err
		}
	}
	for i, s := range d.lab.Servers() {
		b := backend{
			name: s.Device, weight: d.opts.Weights[i],
			v4: netip.AddrPortFrom(s.V4, serverPort), v6: netip.AddrPortFrom(s.V6, serverPort),
		}
		d.backends = append(d.backends, b)
		echo, err := serve(ctx, s.Namespace, b)
		if err != nil {
			return err
		}
		d.echoes = append(d.echoes, echo)
	}
	return d.startDaemon(ctx)
}

func (d *Demo) startDaemon(ctx context.Context) error {
	if err := os.WriteFile(d.rulesFile(), []byte(rules(d.services, d.backends)), 0o644); err != nil {
		return err
	}
	d.progress.step("starting waggle run with %d services, in the form that ipvsadm saves", len(d.services))
	var err error
	d.daemon, err = startDaemon(d.lab.Director, d.opts.Exe, d.rulesFile(), d.pinPath, d.log)
	if err != nil {
		return err
	}
	return d.waitReady(ctx)
}

func (d *Demo) rulesFile() string { return filepath.Join(d.dir, "services.rules") }

// Close stops the daemon, removes its pins and the network. What goes wrong is
// an error that says what is left and how to remove it.
func (d *Demo) Close() error {
	d.progress.step("cleaning up")
	defer d.progress.done()
	var errs []error
	if d.daemon != nil {
		errs = append(errs, d.daemon.stop(), d.cleanPins(d.pinPath, d.lab.Director))
	}
	for _, e := range d.echoes {
		// The listeners are ours alone: closing them cannot matter to anybody.
		_ = e.Close()
	}
	if d.lab != nil {
		errs = append(errs, d.lab.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

// removeStale removes the pins and temporary files of demos that were killed.
// Their namespaces are netlab's business, their daemons end with them. Failing
// is no reason not to go on: nothing of this demo is in the way.
func (d *Demo) removeStale(ctx context.Context) {
	pins := regexp.MustCompile(`^waggle-demo-(\d+)$`)
	d.forStale(ctx, d.opts.PinRoot, pins, func(path string) error { return d.cleanPins(path, nil) })
	files := regexp.MustCompile(`^waggle-demo-(\d+)-\d+$`)
	d.forStale(ctx, os.TempDir(), files, os.RemoveAll)
}

// forStale calls remove for what in a directory has the name of a dead demo.
func (d *Demo) forStale(ctx context.Context, dir string, name *regexp.Regexp, remove func(path string) error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		match := name.FindStringSubmatch(e.Name())
		if match == nil || ctx.Err() != nil {
			continue
		}
		if pid, err := strconv.Atoi(match[1]); err != nil || netlab.Alive(pid) {
			continue
		}
		if err := remove(filepath.Join(dir, e.Name())); err != nil {
			d.progress.note("what an earlier demo left: %v", err)
		}
	}
}

// Exited is closed when the daemon ends.
func (d *Demo) Exited() <-chan struct{} { return d.daemon.process.Done() }

// find returns the demo's service, which exists.
func (d *Demo) find(scheduler string, p lb.Protocol, f lb.Family) service {
	for _, s := range d.services {
		if s.scheduler == scheduler && s.protocol == p && s.family == f {
			return s
		}
	}
	panic(fmt.Sprintf("demo: no service %s %s %s", scheduler, p, f))
}
