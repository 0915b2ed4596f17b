// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// Reader reads what the kernel holds of a place, with or without a daemon, each time
// anew. Not safe for concurrent use.
type Reader struct {
	place   Place
	machine *machine
}

// OpenReader opens a place of the calling thread's network namespace; it makes
// nothing. The error is dataplane.ErrNotRunning if nothing of its owner's is there.
func OpenReader(p Place) (*Reader, error) {
	if !p.Exists() {
		return nil, fmt.Errorf("device %s: %w", p.device(), dataplane.ErrNotRunning)
	}
	handle, err := openIPVS()
	if err != nil {
		return nil, err
	}
	m := &machine{Handle: handle}
	if m.table, err = openTable(); err != nil {
		handle.Close()
		return nil, err
	}
	return &Reader{p, m}, nil
}

// Close releases the handles.
func (r *Reader) Close() error { return r.machine.Close() }

func (r *Reader) load() (*state, error) {
	s := newState(r.machine)
	return s, r.machine.load(s)
}

// Read is Dataplane.Read.
func (r *Reader) Read() (*lb.Snapshot, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	return s.snapshot()
}

// Counters is Dataplane.Counters.
func (r *Reader) Counters() (dataplane.Counters, error) {
	s, err := r.load()
	if err != nil {
		return dataplane.Counters{}, err
	}
	return r.machine.countersOf(s)
}

// Recount compares nothing: the counts are IPVS's own.
func (r *Reader) Recount(context.Context) (dataplane.Recount, error) { return dataplane.Recount{}, nil }

// Status says what is known without a daemon.
func (r *Reader) Status() (dataplane.Status, error) { return statusOf(r.place), nil }

func statusOf(p Place) dataplane.Status {
	return dataplane.Status{
		Dataplane: Name, Why: fmt.Sprintf("virtual services of the kernel, addresses on %s, nftables tables %s", p.device(), tableName),
	}
}

// Flows calls yield for every connection of ours, in the kernel's order, until yield
// returns an error, which Flows returns. IPVS says neither how long one was idle
// nor what packets it had.
func (r *Reader) Flows(yield func(dataplane.Flow) error) error {
	return r.each(func(c *connection, owner lb.ServiceID) error {
		if c.client.Port() == 0 {
			return nil
		}
		return yield(dataplane.Flow{
			Protocol: c.proto, Client: c.client, VIP: c.vip, Backend: c.backend, Service: owner, State: c.state, Expires: c.expires, Bare: true,
		})
	})
}

// Clients calls yield for every client that affinity keeps, as Flows does.
func (r *Reader) Clients(yield func(dataplane.Client) error) error {
	return r.each(func(c *connection, owner lb.ServiceID) error {
		if c.client.Port() != 0 {
			return nil
		}
		return yield(dataplane.Client{Service: owner, Client: c.client.Addr(), Backend: c.backend, Assured: c.state == "ASSURED", Expires: c.expires})
	})
}

// Live counts the connections of TCP and SCTP that have not ended. Datagrams go over
// to another dataplane at once.
func (r *Reader) Live() (n int, err error) {
	err = r.each(func(c *connection, _ lb.ServiceID) error {
		if c.isLive() {
			n++
		}
		return nil
	})
	return n, err
}

// each calls f with every connection of a virtual service that is ours.
func (r *Reader) each(f func(c *connection, owner lb.ServiceID) error) error {
	elements, err := r.machine.table.read(setFrontends, setAnyPorts)
	if err != nil {
		return err
	}
	owners := make(map[key]lb.ServiceID, len(elements))
	for _, e := range elements {
		svc, err := parseNote(e.note, lb.FamilyOf(e.key.addr.Addr()))
		if err != nil {
			return fmt.Errorf("frontend %s in table %s: %w", e.key, tableName, err)
		}
		owners[e.key] = svc.ID
	}
	return eachConnection(func(c *connection) error {
		owner, ours := owners[key{c.vip, c.proto}]
		if !ours {
			owner, ours = owners[key{netip.AddrPortFrom(c.vip.Addr(), 0), c.proto}]
		}
		if !ours {
			return nil
		}
		return f(c, owner)
	})
}
