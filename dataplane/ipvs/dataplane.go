// SPDX-License-Identifier: Apache-2.0

// Package ipvs is the dataplane of the kernel's own IPVS, for machines on which
// the one of eBPF cannot run. VIPs are addresses of a dummy device of ours, and what
// IPVS has no word for is in one nftables table of ours; docs/ipvs-dataplane.md says
// what that is and where it differs from the model.
//
// What the kernel holds outlives the process, and is known as ours by the table:
// an element there names the service of each virtual service. Others' virtual
// services are never touched.
package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
)

// Name is the dataplane's.
const Name = "ipvs"

// Options say what New makes.
type Options struct {
	Place
	Log *slog.Logger
	// TCP, TCPFin and UDP are timeouts of IPVS, of the whole network namespace: what
	// ipvsadm --set sets. 0 leaves what there is.
	TCP, TCPFin, UDP time.Duration
}

// DefaultDevice is the dummy device's name.
const DefaultDevice = nlx.IPVSDevice

// Dataplane implements dataplane.Dataplane. It serves the network namespace of
// the thread that called New.
type Dataplane struct {
	log     *slog.Logger
	machine *machine
	watcher *nlx.Watcher
	lock    *os.File // nil: there is none

	mu    sync.Mutex // guards what follows
	state *state
	// applied are the services as the kernel has them, pending those of which
	// that is not known.
	applied *lb.Snapshot
	pending map[lb.ServiceID]bool
	// addresses are those of other devices than ours: of how many devices.
	addresses map[netip.Addr]int
	node      lb.Node
	fresh     bool // nothing was applied yet
	// followed counts addresses that came and went.
	followed uint64
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// New takes over what the kernel holds of ours, and makes the device and the table
// if they are missing. Packets see no difference before the first Apply.
func New(opts Options) (*Dataplane, error) {
	lock, err := opts.lock()
	if err != nil {
		return nil, err
	}
	m, err := openMachine(opts.Place)
	if err != nil {
		return nil, errors.Join(err, closeLock(lock))
	}
	w, err := nlx.NewWatcher(opts.Log)
	if err != nil {
		return nil, errors.Join(err, m.Close(), closeLock(lock))
	}
	d := newDataplane(opts.Log, m)
	d.machine, d.watcher, d.lock = m, w, lock
	if err := errors.Join(m.setTimeouts(&opts), d.takeOver()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func newDataplane(log *slog.Logger, k kernel) *Dataplane {
	return &Dataplane{log: log, state: newState(k), fresh: true, pending: make(map[lb.ServiceID]bool), addresses: make(map[netip.Addr]int)}
}

// Close releases the process's handles. The kernel goes on forwarding.
func (d *Dataplane) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.watcher.Close(), d.machine.Close(), closeLock(d.lock))
}

func closeLock(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// takeOver reads what the kernel holds.
func (d *Dataplane) takeOver() error {
	list, err := d.watcher.Addresses()
	if err != nil {
		return err
	}
	own := make(map[netip.Addr]bool)
	for _, a := range list {
		if a.Device == d.machine.device.Index() {
			own[a.Addr] = true
		} else {
			d.addresses[a.Addr]++
			d.state.others[a.Addr] = true
		}
	}
	if err := d.machine.load(d.state); err != nil {
		return err
	}
	for id := range d.state.owned {
		d.pending[id] = true
	}
	for a := range d.state.vips {
		if !own[a] {
			if err := d.machine.addAddress(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// Apply implements dataplane.Dataplane.
func (d *Dataplane) Apply(snap *lb.Snapshot) dataplane.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.changeNode(snap.Node()); err != nil {
		return dataplane.Report{Err: err}
	}
	diff := d.applied.Compare(snap)
	b := d.newBatch(snap, &diff)
	was := maps.Clone(d.pending) // at first those that another process has left
	failed := b.refused
	maps.Copy(failed, d.state.change(b.targets))
	rep := dataplane.Report{Failed: failed}
	ok := func(id lb.ServiceID) bool { return failed[id] == nil }
	for _, svc := range diff.Added {
		switch {
		case !ok(svc.ID):
		case !d.fresh || !was[svc.ID]:
			rep.Added++
		case d.state.touched[svc.ID]:
			rep.Changed++
		}
	}
	for _, c := range diff.Changed {
		if ok(c.New.ID) && !c.Old.Equal(c.New) {
			rep.Changed++
		}
	}
	for _, svc := range diff.Removed {
		if ok(svc.ID) {
			rep.Removed++
		}
	}
	rep.Err = d.remember(snap, b)
	d.fresh = false
	return rep
}

// remember sets applied and pending.
func (d *Dataplane) remember(snap *lb.Snapshot, b *batch) error {
	clear(d.pending)
	var keep []*lb.Service
	for id := range b.refused { // by now also what failed
		if old := d.applied.Service(id); old != nil && b.untouched[id] {
			keep = append(keep, old)
		} else {
			d.pending[id] = true
		}
	}
	if len(b.refused) == 0 {
		d.applied = snap
		return nil
	}
	applied, err := snap.Update(keep, slices.Collect(maps.Keys(b.refused)))
	if err != nil {
		return fmt.Errorf("remember what was applied: %w", err)
	}
	d.applied = applied
	return nil
}

// changeNode tells the table who is a pod, and where VIPs are taken from.
func (d *Dataplane) changeNode(n *lb.Node) error {
	if !d.fresh && d.node.Equal(n) {
		return nil
	}
	if err := errors.Join(d.state.kernel.replace(setPods, n.Pods), d.state.kernel.replace(setRanges, n.ServiceRanges)); err != nil {
		return err
	}
	if d.fresh || !slices.Equal(d.node.PodDevices, n.PodDevices) {
		if err := d.state.kernel.tellPods(n.PodDevices); err != nil {
			return err
		}
	}
	if !slices.Equal(d.node.NodePorts, n.NodePorts) {
		for svc := range d.applied.All() {
			if hasNodePort(svc) {
				d.pending[svc.ID] = true
			}
		}
	}
	d.node = *n
	return nil
}

func hasNodePort(svc *lb.Service) bool {
	return slices.ContainsFunc(svc.Frontends, lb.Frontend.IsNodePort)
}

// nodeAddresses are those that serve node ports.
func (d *Dataplane) nodeAddresses() (out []netip.Addr) {
	for a := range d.addresses {
		within := func(p netip.Prefix) bool { return p.Contains(a) }
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && slices.ContainsFunc(d.node.NodePorts, within) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
