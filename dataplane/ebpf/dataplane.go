// SPDX-License-Identifier: Apache-2.0

// Package ebpf is the dataplane of tc programs and BPF maps. What the kernel
// holds is pinned and outlives the process; docs/maps.md describes it.
//
// The first Apply builds a complete new generation of the configuration maps
// beside the one that packets see, carries ids and cursors over, and swaps the
// attached programs to it. Later ones change that generation, at a cost that
// follows the change.
package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/info"
)

// Name is the dataplane's.
const Name = "ebpf"

// Options say what New makes.
type Options struct {
	// PinPath is a directory on bpffs, made if missing. One process at a time.
	PinPath string
	Log     *slog.Logger
	// ExcludeDevices are patterns (path.Match) of names of devices that get
	// no program.
	ExcludeDevices []string
	// XDP is on which devices packets are sent on without the stack; "": none.
	XDP loader.XDPMode
	// Filter says who filters what is forwarded, "" for nobody: with loader.XDPAuto
	// packets then do not go past him. Nil: nobody does. The follower calls it.
	Filter func() (string, error)
	// Cgroup is the control group of version 2, a directory, whose processes'
	// sockets are led to backends before there are packets; "": none are.
	// HostSockets: only those of the own network namespace.
	Cgroup      string
	HostSockets bool
	// RefuseBinds refuses node ports to processes of that namespace; else they are
	// only told of in the log.
	RefuseBinds bool
	// MasqueradePorts are what masquerading takes its ports from, less what
	// the kernel and node ports use; zero: DefaultMasqueradePorts.
	MasqueradePorts PortRange
	Timeouts        Timeouts
	// Limits are how far the configuration maps may grow; zero: DefaultLimits.
	Limits Limits
	// Drain is how long connections go on that a version with another layout
	// of maps has made; zero: DefaultDrain.
	Drain time.Duration

	// Sizes are those of the maps that flows are in; 0: what the memory allows.
	Sizes Sizes

	spec      *cilium.CollectionSpec // tests set variables in it, and sizes of shared maps
	fixed     map[string]uint32      // tests: sizes of configuration maps that do not change
	interrupt func(loader.GrowthStep) error
}

// Dataplane implements dataplane.Dataplane. It serves the network namespace of
// the thread that called New.
type Dataplane struct {
	log     *slog.Logger
	watcher *nlx.Watcher
	names   *names
	ports   []uint16 // for masquerading
	idle    info.Timeouts
	limits  Limits
	drain   time.Duration
	fixed   map[string]uint32
	// published is ready once packets see what this process wrote.
	published task.Readiness
	// entries is how many the flow table has, by the last walk.
	entries atomic.Uint32
	// flowsMax is how many it may grow to have.
	flowsMax uint32
	// lost wakes the ender of sockets, socketsEnded is how many it ended.
	lost         chan struct{}
	socketsEnded atomic.Uint64

	mu     sync.Mutex // guards what follows
	loader *loader.Loader
	gen    *loader.Generation // nil before the first Apply
	tables *tables
	state  *state
	leases leases
	grower grower
	// audited is what the last recount gave, at auditedAt: zero before it.
	audited   dataplane.Recount
	auditedAt time.Time
	following following
	behind    dataplane.Behind
}

// New takes the pin path. Packets see no difference before the first Apply.
func New(opts Options) (*Dataplane, error) {
	n, err := loadNames()
	if err != nil {
		return nil, err
	}
	if opts.MasqueradePorts == (PortRange{}) {
		opts.MasqueradePorts = DefaultMasqueradePorts
	}
	ports, err := choosePorts(opts.MasqueradePorts, opts.Log)
	if err != nil {
		return nil, err
	}
	idle, err := opts.Timeouts.byState()
	if err != nil {
		return nil, err
	}
	limits, err := opts.Limits.orDefault().possible()
	if err != nil {
		return nil, err
	}
	if opts.spec == nil {
		if opts.Sizes, err = sizesByMemory(opts.Sizes, opts.Log); err != nil {
			return nil, err
		}
	}
	l, err := loader.Open(loader.Options{PinPath: opts.PinPath, Log: opts.Log, Exclude: opts.ExcludeDevices, XDP: opts.XDP, AgainstXDP: opts.againstXDP(), Cgroup: opts.Cgroup, HostSockets: opts.HostSockets, RefuseBinds: opts.RefuseBinds, Spec: opts.spec, Sizes: opts.Sizes, Interrupt: opts.interrupt})
	if err != nil {
		return nil, err
	}
	w, err := nlx.NewWatcher(opts.Log)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Dataplane{
		log: opts.Log, watcher: w, names: n, ports: ports, idle: idle, limits: limits, drain: cmp.Or(opts.Drain, DefaultDrain), fixed: opts.fixed,
		flowsMax: opts.Sizes.FlowsMax, lost: make(chan struct{}, 1), loader: l, leases: newLeases(), following: newFollowing(),
	}, nil
}

// Close releases the process's handles and the pin path. The kernel goes on
// forwarding.
func (d *Dataplane) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	if d.tables != nil {
		errs = append(errs, d.tables.Close())
	}
	return errors.Join(append(errs, d.watcher.Close(), d.loader.Close())...)
}

// Apply implements dataplane.Dataplane.
func (d *Dataplane) Apply(snap *lb.Snapshot) dataplane.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tellLost()
	var rep dataplane.Report
	if d.gen != nil {
		rep = d.state.apply(snap)
		d.tellLost() // a larger generation has another state
		rep.Err = errors.Join(rep.Err, d.changeNode(snap.Node()))
	} else {
		var err error
		if rep, err = d.build(snap, needOf(snap).sizes(d.limits)); err != nil {
			return dataplane.Report{Err: err}
		}
		d.published.SetReady()
	}
	return d.grow(snap, rep)
}

// rates are the values of CONFIG_HZ.
var rates = [...]uint32{100, 250, 300, 1000}

// nearestRate returns the one of rates that was measured: in jiffies a second, a
// few too many or too few.
func nearestRate(measured float64) uint32 {
	distance := func(rate uint32) float64 { return math.Abs(measured - float64(rate)) }
	return slices.MinFunc(rates[:], func(a, b uint32) int { return cmp.Compare(distance(a), distance(b)) })
}

// measuredHz is CONFIG_HZ once it was measured: it takes a pause, and holds as
// long as the kernel runs.
var measuredHz atomic.Uint32

// setClocks measures what a jiffy is, tells the programs and pins it for
// readers; before is what the clocks were some time ago.
func (d *Dataplane) setClocks(g *loader.Generation, before info.Clocks) error {
	now, err := clocksOf(g)
	if err != nil {
		return err
	}
	if measuredHz.Load() == 0 {
		time.Sleep(100*time.Millisecond - time.Duration(now.Ktime-before.Ktime)) // less would not tell 250 from 300
		if now, err = clocksOf(g); err != nil {
			return err
		}
		measuredHz.Store(nearestRate(float64(now.Jiffies-before.Jiffies) * 1e9 / float64(now.Ktime-before.Ktime)))
	}
	now.Hz, now.Timeouts = measuredHz.Load(), d.idle
	if err := g.Hz.Set(now.Hz); err != nil {
		return fmt.Errorf("tell the programs what a jiffy is: %w", err)
	}
	return now.Put(g.Meta)
}

// clocksOf reads the kernel's clocks at one time.
func clocksOf(g *loader.Generation) (c info.Clocks, err error) {
	if _, err := g.Clock.Run(&cilium.RunOptions{}); err != nil {
		return c, fmt.Errorf("read the kernel's clocks: %w", err)
	}
	if err := errors.Join(g.ClockJiffies.Get(&c.Jiffies), g.ClockKtime.Get(&c.Ktime)); err != nil {
		return c, fmt.Errorf("read the kernel's clocks: %w", err)
	}
	return c, nil
}

// readerOf makes a reader of configuration maps by their pin names, and of the
// shared ones.
func (d *Dataplane) readerOf(config map[string]*cilium.Map) *reader {
	return &reader{
		services: config["services"], backends: config["backends"], vips: config["vips"], sources: config["source_ranges"],
		serviceInfo: config["service_info"], load: d.loader.Map("load"), stats: d.loader.Map("stats"),
		drops: d.loader.Map("drops"), meta: d.loader.Map("meta"),
		affinity: d.loader.Map("affinity"), names: d.names,
		flows: flows.Table{Map: d.loader.Map("flows"), Next: d.loader.Map("flows_next")}, walk: d.loader.Walk(),
	}
}

// withReader calls f with what packets see now; not at all if that is nothing.
func (d *Dataplane) withReader(f func(*reader) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.gen; g != nil {
		return f(d.readerOf(configOf(&g.LBMaps)))
	}
	prev, err := d.loader.Previous()
	if err != nil || prev == nil {
		return err
	}
	return errors.Join(f(d.readerOf(prev.Maps)), prev.Close())
}

func configOf(m *bpf.LBMaps) map[string]*cilium.Map {
	return map[string]*cilium.Map{"services": m.Services, "backends": m.Backends, "vips": m.Vips, "service_info": m.ServiceInfo, "source_ranges": m.SourceRanges}
}

// Read implements dataplane.Dataplane.
func (d *Dataplane) Read() (snap *lb.Snapshot, err error) {
	err = d.withReader(func(r *reader) error {
		snap, err = r.Read()
		return err
	})
	return snap, err
}

// Counters implements dataplane.Dataplane.
func (d *Dataplane) Counters() (c dataplane.Counters, err error) {
	err = d.withReader(func(r *reader) error {
		c, err = r.Counters()
		return err
	})
	return c, err
}

// Supports implements dataplane.Dataplane.
func (d *Dataplane) Supports(svc *lb.Service) error {
	return cmp.Or(supports(svc), supportsMasquerade(svc, d.ports))
}

var _ dataplane.Dataplane = (*Dataplane)(nil)
