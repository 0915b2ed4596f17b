// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	moby "github.com/moby/ipvs"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/lb"
)

// openMachine opens IPVS, the device and the table, and makes what is missing: the
// device first, so that where it is not there is nothing of ours.
func openMachine(p Place) (*machine, error) {
	handle, err := openIPVS()
	if err != nil {
		return nil, err
	}
	m := &machine{Handle: handle}
	if m.table, err = openTable(); err == nil {
		err = m.setUp(p)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *machine) setUp(p Place) error {
	if _, err := m.table.existing(); err != nil { // before anything is made: is there nftables?
		return err
	}
	before, err := readSysctls()
	if err != nil {
		return err
	}
	there, found, err := p.find()
	if err != nil {
		return err
	}
	if found && there.owner != p.Owner {
		return fmt.Errorf("IPVS in this network namespace is kept by the waggle of pin path %s: name that, or run `waggle cleanup --pin-path %s`", there.owner, there.owner)
	}
	if m.device, err = nlx.OpenDummy(p.device(), tag{p.Owner, before}.String()); err != nil {
		return err
	}
	if err := errors.Join(m.table.ensure(), setSysctls()); err != nil {
		if !found {
			err = errors.Join(err, m.device.Remove())
		}
		return err
	}
	return nil
}

// openIPVS opens IPVS, and has its module loaded.
func openIPVS() (*moby.Handle, error) {
	logrus.SetOutput(io.Discard) // the library's: it tells of each machine without modprobe, whatever it has
	handle, err := moby.New("")
	if err != nil {
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	// The library is content with a kernel that has none.
	if err := nlx.HasGenericFamily("IPVS"); err != nil {
		handle.Close()
		return nil, fmt.Errorf("the kernel has no IPVS: modprobe ip_vs, or use a kernel with CONFIG_IP_VS: %w", err)
	}
	return handle, nil
}

// Close releases the handles.
func (m *machine) Close() error {
	m.Handle.Close()
	if m.device != nil {
		m.device.Close()
	}
	if m.table != nil {
		return m.table.Close()
	}
	return nil
}

// load enters what the kernel has of ours into s: each element of the table that
// names a service, and its virtual service if there is one.
func (m *machine) load(s *state) error {
	list, err := m.GetServices()
	if err != nil {
		return fmt.Errorf("list virtual services: %w", err)
	}
	there := make(map[key]settings, len(list))
	for _, v := range list {
		if k, ok := keyFrom(v); ok {
			there[k] = settingsFrom(v)
		}
	}
	elements, err := m.table.read(setFrontends, setAnyPorts, setSources, setVIPs, setServers)
	if err != nil {
		return err
	}
	sources := make(map[key][]netip.Prefix)
	for _, e := range elements {
		switch e.set {
		case setSources:
			sources[e.key] = append(sources[e.key], e.source)
		case setVIPs:
			s.inVIPs[e.addr] = true
		case setServers:
			s.inServers[e.addr], s.idle[e.addr] = true, true
		}
	}
	for _, e := range elements {
		if e.set != setFrontends && e.set != setAnyPorts {
			continue
		}
		h, err := m.heldAt(e, there)
		if err != nil {
			return err
		}
		h.sources = sources[e.key]
		s.enter(h)
	}
	return nil
}

func (m *machine) heldAt(e element, there map[key]settings) (*held, error) {
	svc, err := parseNote(e.note, lb.FamilyOf(e.key.addr.Addr()))
	if err != nil {
		return nil, fmt.Errorf("frontend %s in table %s: %w", e.key, tableName, err)
	}
	h := &held{owner: svc.ID, virtual: virtual{key: e.key, terms: e.terms, note: e.note}, gone: e.terms&leaving != 0}
	if h.settings, h.present = there[e.key]; !h.present {
		return h, nil
	}
	loads, err := m.loads(e.key)
	if err != nil {
		return nil, fmt.Errorf("list the servers of %s: %w", e.key, err)
	}
	for _, l := range loads {
		h.dests = append(h.dests, l.dest)
	}
	return h, nil
}
