// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"

	"github.com/waggle-lb/waggle/lb"
)

// Measure sends the traffic and returns what it saw. The error is that of the
// context; whatever is wrong with the traffic is in the result.
func (d *Demo) Measure(ctx context.Context) (*Result, error) {
	defer d.progress.done()
	r := newResult(d.backends)
	for _, s := range d.services {
		d.progress.step("%s: %d flows of %s over %s", s.scheduler, d.opts.Flows, s.protocol, s.family)
		t := spread(ctx, d.sources(), s.protocol, s.vip, d.opts.Flows)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r.addDistribution(s, d.backends, d.opts.Flows, t)
	}
	for _, f := range families {
		if err := d.measureRates(ctx, r, f); err != nil {
			return nil, err
		}
	}
	select {
	case <-d.Exited():
		r.problem("waggle run ended while traffic was sent")
	default:
	}
	if !r.OK {
		lines, err := d.drops(ctx)
		if err != nil {
			lines = []string{err.Error()}
		}
		for _, l := range lines {
			r.problem(l)
		}
	}
	return r, ctx.Err()
}

// measureRates uses the first scheduler's services.
func (d *Demo) measureRates(ctx context.Context, r *Result, f lb.Family) error {
	scheduler := d.opts.Schedulers[0]
	tcp, udp := d.find(scheduler, lb.TCP, f).vip, d.find(scheduler, lb.UDP, f).vip
	nodes := d.lab.Clients()
	for _, x := range []struct {
		what string
		m    func() measurement
	}{
		{TCPConnections, func() measurement { return connections(ctx, nodes, tcp, d.opts.RateTime) }},
		{UDPRoundTrips, func() measurement { return roundTrips(ctx, nodes, udp, d.opts.RateTime) }},
		{TCPBulk, func() measurement { return bulk(ctx, nodes[0], tcp, d.opts.BulkBytes) }},
	} {
		d.progress.step("measuring %s over %s", x.what, f)
		m := x.m()
		if err := ctx.Err(); err != nil {
			return err
		}
		r.addRate(x.what, f, m)
	}
	return nil
}

func (d *Demo) sources() []source {
	var out []source
	for i, c := range d.lab.Clients() {
		out = append(out, source{c, &d.ports[i]})
	}
	return out
}

func (r *Result) addRate(what string, f lb.Family, m measurement) {
	rate := newRate(what, f.String(), m)
	r.Rates = append(r.Rates, rate)
	switch {
	case m.err != nil:
		r.problem(fmt.Sprintf("%s over %s: stopped after %d: %v", what, f, m.count, m.err))
	case !rate.OK:
		r.problem(fmt.Sprintf("%s over %s: not one", what, f))
	}
}

// addDistribution judges the counts of a service: every flow was answered, by
// a server of the set, and each server's number is within what was promised.
func (r *Result) addDistribution(s service, backends []backend, flows int, t tally) {
	weights := make([]uint16, len(backends))
	known := 0
	for i, b := range backends {
		weights[i] = b.weight
		known += t.got[b.name]
	}
	cycle, exact := turns(s.scheduler, weights)
	dist := Distribution{
		Scheduler: s.scheduler, Protocol: s.protocol.String(), Family: s.family.String(), VIP: s.vip.String(),
		Flows: flows, Failed: t.failed, Exact: exact, OK: true,
	}
	where := fmt.Sprintf("%s %s over %s", s.scheduler, s.protocol, s.family)
	wrong := func(format string, args ...any) {
		dist.OK = false
		r.problem(where + ": " + fmt.Sprintf(format, args...))
	}
	if t.failed > 0 {
		wrong("%d of %d flows failed, the first: %v", t.failed, flows, t.first)
	}
	answered := 0
	for _, n := range t.got {
		answered += n
	}
	if answered != known {
		wrong("%d answers are from servers that are not in the rules", answered-known)
	}
	for i, p := range promise(cycle, flows) {
		got := t.got[backends[i].name]
		dist.Servers = append(dist.Servers, Share{backends[i].name, got, p.min, p.max})
		// A failed flow has no place in the counts; it is wrong by itself.
		outside := exact && t.failed == 0 && (got < p.min || got > p.max)
		if outside || weights[i] == 0 && got > 0 {
			wrong("%s got %d flows, promised are %s", backends[i].name, got, p)
		}
	}
	r.Distributions = append(r.Distributions, dist)
}

func (s span) String() string {
	if s.min == s.max {
		return fmt.Sprint(s.min)
	}
	return fmt.Sprintf("%d-%d", s.min, s.max)
}
