// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"io"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/devices"
	"github.com/waggle-lb/waggle/maps/info"
	"github.com/waggle-lb/waggle/maps/masqports"
	"github.com/waggle-lb/waggle/maps/nodeaddrs"
	"github.com/waggle-lb/waggle/maps/prefixes"
	"github.com/waggle-lb/waggle/maps/services"
	"github.com/waggle-lb/waggle/maps/slots"
	"github.com/waggle-lb/waggle/maps/stats"
	"github.com/waggle-lb/waggle/maps/vips"
)

// tables are the maps of one generation, and the shared ones, for writing.
type tables struct {
	services    *services.Table
	slots       *slots.Table
	backends    *backends.Table
	vips        vips.Table
	vipBits     *bits.Table
	portBits    *bits.Table
	backendBits *bits.Table
	peerBits    *bits.Table
	masqBits    *bits.Table
	load        *stats.Load
	stats       *cilium.Map
	info        info.Services
	devices     devices.Table
	nodeAddrs   nodeaddrs.Table
	pods        prefixes.Pods
	sources     prefixes.Sources
	ranges      *cilium.Map
	masqPorts   *masqports.Table
	// Variables of the programs: of bpf/bits.h, bpf/sweep.h and bpf/sockets.h.
	anyPort, flushLost, hostSource *cilium.Variable

	closers []io.Closer
}

// openTables makes handles for maps that stay the caller's.
func openTables(m *bpf.LBObjects) (_ *tables, err error) {
	t := &tables{
		anyPort:    m.AnyPort,
		flushLost:  m.FlushLost,
		hostSource: m.HostSource,
		vips:       vips.Table{Map: m.Vips},
		stats:      m.Stats,
		info:       info.Services{Map: m.ServiceInfo},
		devices:    devices.Table{Map: m.Devices},
		nodeAddrs:  nodeaddrs.Table{Map: m.NodeAddrs},
		pods:       prefixes.Pods{Map: m.Prefixes},
		sources:    prefixes.Sources{Map: m.SourceRanges},
		ranges:     m.ServiceRanges,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.services, err = open(t, services.Open, m.Services); err != nil {
		return nil, err
	}
	if t.slots, err = open(t, slots.Open, m.Slots); err != nil {
		return nil, err
	}
	withIDs := func(records *cilium.Map) (*backends.Table, error) {
		return backends.Open(records, m.BackendIds, m.IdsFactor)
	}
	if t.backends, err = open(t, withIDs, m.Backends); err != nil {
		return nil, err
	}
	if t.vipBits, err = open(t, bits.Open, m.VipBits); err != nil {
		return nil, err
	}
	if t.portBits, err = open(t, bits.Open, m.NodePortBits); err != nil {
		return nil, err
	}
	if t.backendBits, err = open(t, bits.Open, m.BackendBits); err != nil {
		return nil, err
	}
	if t.peerBits, err = open(t, bits.Open, m.PeerBits); err != nil {
		return nil, err
	}
	if t.masqBits, err = open(t, bits.Open, m.MasqBits); err != nil {
		return nil, err
	}
	if t.masqPorts, err = open(t, masqports.Open, m.MasqPorts); err != nil {
		return nil, err
	}
	t.load, err = open(t, stats.OpenLoad, m.Load)
	return t, err
}

// bits are the bitmaps, in the order of state.bitRefs.
func (t *tables) bits() []*bits.Table {
	return []*bits.Table{t.vipBits, t.backendBits, t.peerBits, t.masqBits, t.portBits}
}

func open[T io.Closer](t *tables, open func(*cilium.Map) (T, error), m *cilium.Map) (T, error) {
	handle, err := open(m)
	if err == nil {
		t.closers = append(t.closers, handle)
	}
	return handle, err
}

// Close unmaps the memory.
func (t *tables) Close() error {
	var errs []error
	for _, c := range t.closers {
		errs = append(errs, c.Close())
	}
	t.closers = nil
	return errors.Join(errs...)
}

// formerTables are the maps of a former process's generation that the next one reads,
// and those whose bits it sets.
type formerTables struct {
	vips, backends, peers, masq, ports *bits.Table
	slots                              *slots.Table
	closers                            []io.Closer
}

func openFormer(prev map[string]*cilium.Map) (f *formerTables, err error) {
	f = &formerTables{}
	for name, t := range map[string]**bits.Table{
		"vip_bits": &f.vips, "backend_bits": &f.backends, "peer_bits": &f.peers, "masq_bits": &f.masq, "node_port_bits": &f.ports,
	} {
		if *t, err = bits.Open(prev[name]); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.closers = append(f.closers, *t)
	}
	if f.slots, err = slots.Open(prev["slots"]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.closers = append(f.closers, f.slots)
	return f, nil
}

// bits are the bitmaps, in the order of state.bitRefs.
func (f *formerTables) bits() []*bits.Table {
	return []*bits.Table{f.vips, f.backends, f.peers, f.masq, f.ports}
}

// Close unmaps the memory.
func (f *formerTables) Close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
