// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
)

// listing is what a list of services in ipvsadm's form is made of.
type listing struct {
	snap  *lb.Snapshot
	total dataplane.Counters
	// before and elapsed are of --rate: what was counted at the first reading,
	// and how long that was before the second.
	before  dataplane.Counters
	elapsed time.Duration
	clients []dataplane.Client // of --persistent-conn
}

// listAsTool prints services as ipvsadm -L -n does.
func (e *env) listAsTool(ctx context.Context, pinPath string, request *listRequest) error {
	l, err := e.readListing(ctx, pinPath, request)
	if err != nil {
		return err
	}
	services := l.services()
	if f := request.frontend; f != nil {
		services = slices.DeleteFunc(services, func(s ipvsadm.Service) bool { return s.Frontend != *f })
		if len(services) == 0 {
			return &remediedError{fmt.Errorf("no service %s at %s", f, pinPath), "`waggle services -o ipvsadm` lists them"}
		}
		services[0].Shared = false // it is all there is to be seen
	}
	if l.snap.Len() == 0 {
		e.note("no services at %s", pinPath)
	}
	for _, n := range l.notes(request, services) {
		e.note("%s", n)
	}
	return ipvsadm.List(e.stdout, services, request.ListOptions)
}

func (e *env) readListing(ctx context.Context, pinPath string, request *listRequest) (l *listing, err error) {
	l = &listing{}
	if request.View == ipvsadm.Rates {
		return l, e.readTwice(ctx, pinPath, request.interval, l)
	}
	if l.snap, l.total, err = e.readAll(pinPath); err != nil {
		return nil, err
	}
	if request.View == ipvsadm.PersistentConn {
		err = e.reading(pinPath, func(r reader) (err error) {
			l.clients, _, err = readClients(ctx, r, pinPath, l.snap, "", 0)
			return err
		})
	}
	return l, err
}

// readTwice opens the pins for each reading: a daemon may have begun another
// generation of them in between.
func (e *env) readTwice(ctx context.Context, pinPath string, interval time.Duration, l *listing) (err error) {
	if _, l.before, err = e.readAll(pinPath); err != nil {
		return err
	}
	began := e.now()
	if e.tty {
		e.note("counting for %s", interval)
	}
	if err := e.wait(ctx, interval); err != nil {
		return err
	}
	l.snap, l.total, err = e.readAll(pinPath)
	l.elapsed = e.now().Sub(began)
	return err
}

// services are those of the snapshot with what was counted. A service has had
// what its backends had, those that left it and are not gone yet included.
func (l *listing) services() []ipvsadm.Service {
	clients := make(map[lb.BackendID]uint64)
	for _, c := range l.clients {
		clients[lb.BackendID{Service: c.Service, Addr: c.Backend}]++
	}
	totals, changes := make(map[lb.ServiceID]ipvsadm.Traffic), make(map[lb.ServiceID]ipvsadm.Traffic)
	for id, c := range l.total.Backends {
		totals[id.Service] = plus(totals[id.Service], traffic(c))
		changes[id.Service] = plus(changes[id.Service], l.change(id))
	}
	out := ipvsadm.Services(l.snap)
	for i := range out {
		s := &out[i]
		s.Total, s.Rate = totals[s.ID], l.perSecond(changes[s.ID])
		for j := range s.Servers {
			k := &s.Servers[j]
			id := lb.BackendID{Service: s.ID, Addr: k.Addr}
			c := l.total.Backends[id]
			k.Active, k.Inactive, k.Persistent = c.Active, c.Inactive, clients[id]
			k.Total, k.Rate = traffic(c), l.perSecond(l.change(id))
		}
	}
	return out
}

func traffic(c dataplane.BackendCounters) ipvsadm.Traffic {
	return ipvsadm.Traffic{
		Connections: c.Connections, InPackets: c.InPackets, OutPackets: c.OutPackets, InBytes: c.InBytes, OutBytes: c.OutBytes,
	}
}

func plus(a, b ipvsadm.Traffic) ipvsadm.Traffic {
	return ipvsadm.Traffic{
		Connections: a.Connections + b.Connections, InPackets: a.InPackets + b.InPackets, OutPackets: a.OutPackets + b.OutPackets,
		InBytes: a.InBytes + b.InBytes, OutBytes: a.OutBytes + b.OutBytes,
	}
}

// change is what a backend had between the readings. One that has less than
// before began anew: it was removed, and is back.
func (l *listing) change(id lb.BackendID) ipvsadm.Traffic {
	a, b := l.before.Backends[id], l.total.Backends[id]
	if b.Connections < a.Connections || b.InPackets < a.InPackets || b.OutPackets < a.OutPackets || b.InBytes < a.InBytes || b.OutBytes < a.OutBytes {
		a = dataplane.BackendCounters{}
	}
	return ipvsadm.Traffic{
		Connections: b.Connections - a.Connections, InPackets: b.InPackets - a.InPackets, OutPackets: b.OutPackets - a.OutPackets,
		InBytes: b.InBytes - a.InBytes, OutBytes: b.OutBytes - a.OutBytes,
	}
}

// perSecond is rounded to the nearest, as IPVS's rates are.
func (l *listing) perSecond(t ipvsadm.Traffic) ipvsadm.Traffic {
	if l.elapsed <= 0 {
		return ipvsadm.Traffic{}
	}
	rate := func(n uint64) uint64 { return uint64(math.Round(float64(n) / l.elapsed.Seconds())) }
	return ipvsadm.Traffic{
		Connections: rate(t.Connections), InPackets: rate(t.InPackets), OutPackets: rate(t.OutPackets),
		InBytes: rate(t.InBytes), OutBytes: rate(t.OutBytes),
	}
}

// notes say what the form cannot.
func (l *listing) notes(request *listRequest, services []ipvsadm.Service) (notes []string) {
	add := func(what string, names []string) {
		if len(names) > 0 {
			notes = append(notes, what+": "+some(names))
		}
	}
	listed := make(map[lb.ServiceID]bool)
	for _, s := range services {
		listed[s.ID] = true
	}
	in := func(id lb.ServiceID) bool { return request.frontend == nil || listed[id] }
	unhealthy, without, shared := l.odd(in)
	add("not listed, as they have no frontend", without)
	if request.frontend == nil {
		add(`counted over all frontends of the service; the numbers stand with the first, "-" with the others`, shared)
	} else {
		add("counted over all frontends of the service, not for this one alone", shared)
	}
	if request.View == ipvsadm.Connections || request.View == ipvsadm.PersistentConn {
		add("unhealthy, which is weight 0 here", unhealthy)
	}
	add("not listed, as they have left their service, but with connections still", l.left(in))
	return notes
}

// odd names what the form shows otherwise or not at all: backends that are
// unhealthy, and services without a frontend and with several.
func (l *listing) odd(in func(lb.ServiceID) bool) (unhealthy, without, shared []string) {
	for svc := range l.snap.All() {
		if !in(svc.ID) {
			continue
		}
		switch n := len(svc.Frontends); {
		case n == 0:
			without = append(without, svc.ID.String())
			continue
		case n > 1:
			shared = append(shared, svc.ID.String())
		}
		for _, b := range svc.Backends {
			if b.Unhealthy {
				unhealthy = append(unhealthy, fmt.Sprintf("%s %s", svc.ID, b.Addr))
			}
		}
	}
	return unhealthy, without, shared
}

// left names the backends that are in no service any more and have connections.
func (l *listing) left(in func(lb.ServiceID) bool) (out []string) {
	for id, c := range l.total.Backends {
		if c.Active+c.Inactive == 0 || !in(id.Service) {
			continue
		}
		svc := l.snap.Service(id.Service)
		if svc == nil || !slices.ContainsFunc(svc.Backends, func(b lb.Backend) bool { return b.Addr == id.Addr }) {
			out = append(out, fmt.Sprintf("%s %s", id.Service, id.Addr))
		}
	}
	slices.Sort(out)
	return out
}
