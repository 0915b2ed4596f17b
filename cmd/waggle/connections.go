// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
)

// connections are what ipvsadm -L -n -c lists.
type connections struct {
	snap      *lb.Snapshot
	flows     []dataplane.Flow
	clients   []dataplane.Client
	truncated bool
}

// listConnections prints flows and clients as ipvsadm does.
func (e *env) listConnections(ctx context.Context, pinPath string, service serviceFlag, limit int, engines bool) error {
	c := &connections{}
	err := e.reading(pinPath, func(r reader) error { return c.read(ctx, r, pinPath, service, limit) })
	if err != nil {
		return err
	}
	entries, shared := c.entries()
	if limit > 0 && len(entries) > limit {
		entries, c.truncated = entries[:limit], true
	}
	if c.truncated {
		e.note("there are more connections: --limit stopped at %d", limit)
	}
	if len(shared) > 0 {
		e.note("a client is kept for all frontends of its service, and stands with the first: %s", some(shared))
	}
	slices.SortFunc(entries, func(a, b ipvsadm.Connection) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Source.Compare(b.Source), a.Virtual.Compare(b.Virtual))
	})
	return ipvsadm.ListConnections(e.stdout, slices.Values(entries), engines)
}

func (c *connections) read(ctx context.Context, r reader, pinPath string, service serviceFlag, limit int) (err error) {
	if c.snap, err = readServices(r, pinPath); err != nil {
		return err
	}
	match := func(f dataplane.Flow) bool {
		// a client's own connection to a backend is no service's
		direct := f.Service == lb.ServiceID{} && f.VIP == f.Backend
		return service.match(f.Service) && !direct
	}
	if c.flows, c.truncated, err = readFlows(ctx, r, pinPath, match, limit); err != nil {
		return err
	}
	c.clients, _, err = readClients(ctx, r, pinPath, c.snap, service, 0)
	return err
}

// entries are the flows and then the clients, each with a frontend of its
// service: shared names the services that have others.
func (c *connections) entries() (out []ipvsadm.Connection, shared []string) {
	for _, f := range c.flows {
		state := f.State
		if f.Protocol == lb.SCTP {
			state = "NONE" // it has no states here: the name is that of UDP
		}
		out = append(out, ipvsadm.Connection{
			Protocol: f.Protocol, Expires: f.Expires, State: state, Source: f.Client, Virtual: f.VIP, Destination: f.Backend,
		})
	}
	first := make(map[lb.ServiceID]lb.Frontend)
	for _, s := range ipvsadm.Services(c.snap) {
		if !s.Shared {
			first[s.ID] = s.Frontend
		}
	}
	more := make(map[string]bool)
	for _, k := range c.clients {
		f, ok := first[k.Service]
		if !ok {
			continue // it has no frontend: nothing of the client can come
		}
		state := "NONE"
		if k.Assured {
			state = "ASSURED"
		}
		out = append(out, ipvsadm.Connection{
			Protocol: f.Protocol, Expires: k.Expires, State: state,
			Source: netip.AddrPortFrom(k.Client, 0), Virtual: f.Addr, Destination: k.Backend,
		})
		if name := k.Service.String(); len(c.snap.Service(k.Service).Frontends) > 1 && !more[name] {
			more[name] = true
			shared = append(shared, name)
		}
	}
	slices.Sort(shared)
	return out, shared
}

// some lists names for a note: the first few, and how many there are beyond.
func some(names []string) string {
	const shown = 5
	if n := len(names) - shown; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), n)
	}
	return strings.Join(names, ", ")
}
