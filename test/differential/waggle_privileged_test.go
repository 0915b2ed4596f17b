// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/sync/file"
)

// waggle is a machine that the eBPF dataplane serves, with all of its tasks.
type waggle struct {
	*machine
	dataplane *ebpf.Dataplane
	snap      *lb.Snapshot
	pins      string
	backends  *cilium.Map
	load      *cilium.Map
	ids       map[uint64]uint32 // as they were when the maps were opened
	tasks     []task.Task
	stop      context.CancelFunc
	running   errgroup.Group
}

func newWaggle(t *testing.T, vips []netip.Addr) (*waggle, error) {
	m, err := newMachine("diffwaggle", vips)
	if err != nil {
		return nil, err
	}
	w := &waggle{machine: m, pins: fmt.Sprintf("/sys/fs/bpf/waggle-differential-%d", os.Getpid())}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	err = m.Do(func() (err error) {
		w.dataplane, err = ebpf.New(ebpf.Options{PinPath: w.pins, Log: log})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.tasks = stop, w.dataplane.Tasks()
	for _, t := range w.tasks { // devices are those of the thread's namespace
		w.running.Go(func() error { return m.Do(func() error { return t.Run(ctx) }) })
	}
	return w, nil
}

func (w *waggle) Close() error {
	w.stop()
	errs := []error{w.running.Wait(), w.dataplane.Close()}
	_, err := ebpf.Cleanup(w.pins)
	return errors.Join(append(errs, err, w.machine.Close())...)
}

// restore makes the rules those of a text, as `waggle run --services` does when the
// file has changed. The text has no words for the mode.
func (w *waggle) restore(text string, m mode) error {
	cfg, err := file.Parse("rules", []byte(text), file.Options{})
	if err != nil {
		return err
	}
	for _, svc := range cfg.Services {
		m.options(svc)
	}
	if w.snap == nil {
		w.snap = &lb.Snapshot{}
	}
	next, err := lb.NewSnapshot(file.Order(w.snap, cfg.Services)...)
	if err != nil {
		return err
	}
	var rep dataplane.Report
	err = w.Do(func() error {
		rep = w.dataplane.Apply(next)
		return rep.Err
	})
	for id, failed := range rep.Failed {
		err = errors.Join(err, fmt.Errorf("%s: %w", id, failed))
	}
	w.snap = next
	for _, t := range w.tasks { // they begin with the first rules: the programs are attached
		<-t.Ready()
	}
	return err
}

// open opens the maps that tell how many connections backends have, and reads which
// ids they have. A change may have others take their place.
func (w *waggle) open() error {
	if w.load != nil {
		w.load.Close()
		w.backends.Close()
	}
	for name, m := range map[string]**cilium.Map{"config/backends": &w.backends, "load": &w.load} {
		var err error
		if *m, err = cilium.LoadPinnedMap(filepath.Join(w.pins, name), nil); err != nil {
			return err
		}
	}
	w.ids = make(map[uint64]uint32)
	return backends.Each(w.backends, func(id uint32, r backends.Record) { w.ids[r.Hash] = id })
}

// gauges lists the backends of a service in the order of its list, and how many
// connections they have: of all counters two are looked up for each.
func (w *waggle) gauges(s *service) ([]counts, error) {
	svc := w.snap.Service(s.id())
	if svc == nil {
		return nil, fmt.Errorf("%s is not there", s)
	}
	out := make([]counts, 0, len(svc.Backends))
	for _, b := range svc.Backends {
		l, there, err := w.loadOf(lb.BackendID{Service: svc.ID, Addr: b.Addr})
		if err == nil && !there {
			if err = w.open(); err == nil { // it has an id by now, or another generation has other maps
				l, there, err = w.loadOf(lb.BackendID{Service: svc.ID, Addr: b.Addr})
			}
		}
		if err != nil || !there {
			return nil, fmt.Errorf("backend %s has an id: %t, error %w", b.Addr, there, err)
		}
		c := counts{Backend: b}
		c.Active, c.Inactive = uint64(l.Active), uint64(l.Inactive)
		out = append(out, c)
	}
	return out, nil
}

// loadOf is how many connections a backend has; false if it is not known any more.
func (w *waggle) loadOf(b lb.BackendID) (l bpf.LBBackendLoad, there bool, err error) {
	id := w.ids[b.Hash()]
	var record bpf.LBBackend
	if err := w.backends.Lookup(id, &record); err != nil || record.Hash != b.Hash() {
		return l, false, err
	}
	return l, true, w.load.Lookup(id, &l)
}

// counts is the same of services, with all that they count.
func (w *waggle) counts(services []*service) (map[*service][]counts, error) {
	all, err := w.dataplane.Counters()
	if err != nil {
		return nil, err
	}
	out := make(map[*service][]counts)
	for _, s := range services {
		for _, b := range w.snap.Service(s.id()).Backends {
			c := counts{b, all.Backends[lb.BackendID{Service: s.id(), Addr: b.Addr}]}
			c.Overloaded = false // IPVS does not show it
			out[s] = append(out[s], c)
		}
	}
	return out, nil
}

// entries lists the flows to the frontends that has is true of, as ipvsadm would.
func (w *waggle) entries(has func(vip netip.AddrPort) bool) (map[string]string, error) {
	pins, err := ebpf.OpenPins(w.pins)
	if err != nil {
		return nil, err
	}
	defer pins.Close()
	out := make(map[string]string)
	return out, pins.Flows(func(f dataplane.Flow) error {
		if has(f.VIP) {
			out[entry(f.Protocol.String(), f.Client, f.VIP)] = fmt.Sprintf("%s %s", f.Backend, f.State)
		}
		return nil
	})
}

func entry(protocol string, client, vip netip.AddrPort) string {
	return fmt.Sprintf("%s %s > %s", protocol, client, vip)
}
