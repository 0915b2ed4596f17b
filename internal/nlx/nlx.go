// SPDX-License-Identifier: Apache-2.0

// Package nlx reads the network devices and addresses of a network namespace,
// asks its routing tables, and says when they change. Dumps that the kernel
// interrupted are repeated, so a caller never sees half a list.
package nlx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is one network device.
type Link struct {
	Index int
	Name  string
	// Kind is what `ip link` calls the type: "veth", "bridge", "device".
	Kind string
	// Master is the index of the bridge, bond, team or VRF that it belongs to,
	// and MasterKind that one's kind; 0 and "" without one.
	Master     int
	MasterKind string
	// Ethernet says that its packets begin with an Ethernet header.
	Ethernet bool
	// MAC is its Ethernet address; zero without one.
	MAC      [6]byte
	Loopback bool
	// Parent is the index of what it is on top of, of a veth that of its other end,
	// and PeerNamespace the id of the network namespace where that is; -1: here.
	Parent, PeerNamespace int
	MTU                   int
	XDP                   XDP
	// Sources are the device's addresses that packets may carry as their
	// source to other machines, in the kernel's order: of global scope, not
	// tentative, not deprecated.
	Sources []netip.Addr
}

// State is one complete reading.
type State struct {
	Links []Link // by index
	Addrs []netip.Addr
	// Uplinks are the sources that the kernel takes for packets to nowhere in
	// particular, by the default routes: at most one of each family.
	Uplinks []netip.Addr
}

const (
	attempts = 10                    // of an interrupted dump
	settle   = 20 * time.Millisecond // after an event: they come in bursts
	// audit is for what has no event, and in case one was lost.
	audit = 10 * time.Second
)

// The dummy devices that hold VIPs for IPVS, kube-proxy's and our own dataplane's, so
// that the stack takes their packets. They are no addresses of this machine.
const (
	KubeIPVSDevice = "kube-ipvs0"
	IPVSDevice     = "waggle0"
)

// IPVSDevices are both.
var IPVSDevices = []string{KubeIPVSDevice, IPVSDevice}

// retry repeats a dump that the kernel says is inconsistent.
func retry[T any](what string, dump func() (T, error)) (T, error) {
	for range attempts {
		got, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			if err != nil {
				err = fmt.Errorf("list %s: %w", what, err)
			}
			return got, err
		}
	}
	var zero T
	return zero, fmt.Errorf("list %s: changed under the reading %d times in a row", what, attempts)
}

// Read reads the state of the calling thread's network namespace.
func Read() (State, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return State{}, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return read(h)
}

func read(h *netlink.Handle) (State, error) {
	links, err := retry("network devices", h.LinkList)
	if err != nil {
		return State{}, err
	}
	addrs, err := retry("addresses", func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return State{}, err
	}
	kinds := make(map[int]string, len(links))
	for _, l := range links {
		kinds[l.Attrs().Index] = l.Type()
		if slices.Contains(IPVSDevices, l.Attrs().Name) && l.Type() == "dummy" {
			addrs = slices.DeleteFunc(addrs, func(a netlink.Addr) bool { return a.LinkIndex == l.Attrs().Index })
		}
	}
	sources := make(map[int][]netip.Addr)
	for _, a := range addrs {
		if ip, ok := source(a); ok {
			sources[a.LinkIndex] = append(sources[a.LinkIndex], ip)
		}
	}
	s := State{Uplinks: uplinks(h)}
	for _, l := range links {
		a := l.Attrs()
		s.Links = append(s.Links, Link{
			Index: a.Index, Name: a.Name, Kind: l.Type(), Master: a.MasterIndex, MasterKind: kinds[a.MasterIndex],
			Ethernet: a.EncapType == "ether", Loopback: a.Flags&net.FlagLoopback != 0,
			MAC: mac(a.HardwareAddr), Sources: sources[a.Index],
			Parent: a.ParentIndex, PeerNamespace: a.NetNsID, MTU: a.MTU, XDP: xdpOf(a),
		})
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			s.Addrs = append(s.Addrs, ip.Unmap())
		}
	}
	slices.SortFunc(s.Links, func(a, b Link) int { return a.Index - b.Index })
	slices.SortFunc(s.Addrs, netip.Addr.Compare)
	s.Addrs = slices.Compact(s.Addrs)
	return s, nil
}

// mac is zero for addresses of tunnels, which have another length.
func mac(a net.HardwareAddr) (m [6]byte) {
	if len(a) == len(m) {
		copy(m[:], a)
	}
	return m
}

// Watcher follows one network namespace.
type Watcher struct {
	ns  netns.NsHandle
	h   *netlink.Handle
	log *slog.Logger
}

// NewWatcher makes a watcher of the calling thread's network namespace.
func NewWatcher(log *slog.Logger) (*Watcher, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	h, err := openAt(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Watcher{ns: ns, h: h, log: log}, nil
}

// Close releases the watcher.
func (w *Watcher) Close() error {
	w.h.Close()
	return w.ns.Close()
}

// Read reads the state now.
func (w *Watcher) Read() (State, error) { return read(w.h) }

// Run calls changed with the state at the start, after every change, after a
// filter or a qdisc was removed from a device, and every ten seconds. It returns
// nil when ctx ends. changed is called from the goroutine of Run.
func (w *Watcher) Run(ctx context.Context, changed func(State)) error {
	w.persist(ctx, func() error { return w.follow(ctx, changed) })
	return nil
}

// persist calls follow again each time that it fails, until ctx ends.
func (w *Watcher) persist(ctx context.Context, follow func() error) {
	for ctx.Err() == nil {
		if err := follow(); err != nil && ctx.Err() == nil {
			// the kernel drops subscribers who fall behind: read all and go on
			w.log.Warn("netlink events were lost; reading everything again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		}
	}
}

func (w *Watcher) follow(ctx context.Context, changed func(State)) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 2)
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	err := within(w.ns, func() error {
		return errors.Join(
			netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}),
			netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: report}),
		)
	})
	if err != nil {
		return fmt.Errorf("subscribe to devices and addresses: %w", err)
	}
	removals, err := w.removals(done, report)
	if err != nil {
		return err
	}
	next, soon := time.NewTimer(0), true // soon: an event has set it
	defer next.Stop()
	for {
		open := true
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case _, open = <-links:
		case _, open = <-addrs:
		case <-removals:
		case <-next.C:
			s, err := read(w.h)
			if err != nil {
				return err
			}
			changed(s)
			next.Reset(audit)
			soon = false
			continue
		}
		if !open {
			return errors.New("a subscription to devices and addresses ended")
		}
		if !soon {
			next.Reset(settle)
			soon = true
		}
	}
}
