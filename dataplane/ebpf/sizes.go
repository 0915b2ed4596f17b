// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

// Limits are how many elements the configuration maps may have. They begin
// small and grow: a larger generation is built beside the one that packets see.
type Limits struct {
	// Services counts services of one family each, Backends the pairs of a
	// service and a backend, those included that left their service but not
	// their connections; VIPs the frontends and their addresses; Slots words of
	// 8 bytes.
	Services, Backends, VIPs, Slots uint32
}

// DefaultLimits are for machines with some GiB of memory.
var DefaultLimits = Limits{Services: 1 << 20, Backends: 1 << 22, VIPs: 1 << 21, Slots: 1 << 27}

func (l Limits) orDefault() Limits {
	if l == (Limits{}) {
		return DefaultLimits
	}
	return l
}

// byMap are the limits of all maps that have one.
func (l Limits) byMap() map[string]uint32 {
	out := make(map[string]uint32)
	setSize(out, "services", l.Services)
	setSize(out, "backends", l.Backends)
	setSize(out, "vips", l.VIPs)
	setSize(out, "slots", l.Slots)
	return out
}

// Check finds limits that nothing could be done with.
func (l Limits) Check() error {
	for _, c := range []struct {
		flag     string
		n, least uint32
	}{{"services", l.Services, minServices}, {"backends", l.Backends, minBackends}, {"vips", l.VIPs, minVIPs}, {"slots", l.Slots, minSlots}} {
		if c.n < c.least {
			return fmt.Errorf("--%s-max %d: the map begins with %d elements: write that or more", c.flag, c.n, c.least)
		}
	}
	most, err := bpf.MostBackends()
	if err == nil && l.Backends > max(most, DefaultLimits.Backends) {
		return fmt.Errorf("--backends-max %d: counters of each on each of this machine's CPUs are more than a map can have: write %d or less", l.Backends, most)
	}
	return err
}

// possible are the limits as far as this machine's CPUs leave room.
func (l Limits) possible() (Limits, error) {
	most, err := bpf.MostBackends()
	l.Backends = min(l.Backends, most)
	return l, err
}

// How the maps begin where there is little to hold.
const (
	minServices = 1 << 10
	minBackends = 1 << 11
	minVIPs     = 1 << 11
	minSlots    = 1 << 14
)

// growAt is the part of a map, in percent, from which on it grows.
const growAt = 80

// need is how many elements of each map a configuration takes.
type need struct{ services, backends, vips, slots uint64 }

// needOf counts; of slots it can only guess, as runs are not compiled yet.
func needOf(snap *lb.Snapshot) (n need) {
	n = need{services: 1, backends: 1, slots: 1} // 0 is nobody's
	for svc := range snap.Each() {
		n.services++
		n.backends += uint64(len(svc.Backends))
		n.vips += 2 * uint64(len(svc.Frontends)) // each with an address of its own, perhaps
		n.slots += 16 + 2*uint64(len(svc.Backends))
	}
	return n
}

// sizes are maps in which this need stays below growAt.
func (n need) sizes(l Limits) map[string]uint32 {
	out := make(map[string]uint32)
	setSize(out, "services", roomFor(n.services, minServices, l.Services))
	setSize(out, "backends", roomFor(n.backends, minBackends, l.Backends))
	setSize(out, "vips", roomFor(n.vips, minVIPs, l.VIPs))
	setSize(out, "slots", roomFor(n.slots, minSlots, l.Slots))
	return out
}

// roomFor is the least power of two from least on that n fills to less than
// growAt, but at most limit.
func roomFor(n uint64, least, limit uint32) uint32 {
	with := n*100/growAt + 1
	room := max(uint64(1)<<bits.Len64(with-1), uint64(least))
	return uint32(min(room, uint64(limit)))
}

// together are the maps that have one size; the loader makes stats as load needs it.
var together = map[string][]string{
	"services": {"services", "service_info"},
	"backends": {"backends", "backend_ids", "load"},
	"vips":     {"vips"},
	"slots":    {"slots"},
}

func setSize(sizes map[string]uint32, name string, n uint32) {
	for _, m := range together[name] {
		sizes[m] = n
	}
}

// atLeast makes sizes such that the services of the generation before find place,
// those included that are gone but for their connections.
func atLeast(sizes map[string]uint32, prev *loader.Config) map[string]uint32 {
	if prev != nil {
		setSize(sizes, "services", max(sizes["services"], prev.Maps["services"].MaxEntries()))
	}
	return sizes
}

// level is how much of a map is taken.
type level struct {
	Map string
	// Used are the elements taken, of Max; Limit is to what Max may grow.
	Used, Max, Limit uint32
}

func (f level) tight() bool { return uint64(f.Used)*100 >= uint64(f.Max)*growAt }

// levels says how full the maps are that grow.
func (d *Dataplane) levels() []level {
	s, l := d.state, d.limits
	return []level{
		{"services", s.serviceIDs.taken, s.t.services.Len(), l.Services},
		{"backends", s.backendIDs.taken, s.t.backends.Len(), l.Backends},
		{"vips", uint32(len(s.owners) + len(s.marks)), s.t.vips.Len(), l.VIPs},
		{"slots", s.space.taken, s.t.slots.Len(), l.Slots},
	}
}

// grower remembers what it said, and when growing failed.
type grower struct {
	failed time.Time
	warned map[string]bool
}

// growAgainAfter is how long growing is not tried after it failed.
const growAgainAfter = time.Minute

// grow builds larger generations as long as a map is tight, or has refused a
// service; rep is what came of snap. If that fails, what packets see stays.
func (d *Dataplane) grow(snap *lb.Snapshot, rep dataplane.Report) dataplane.Report {
	for d.fixed == nil && time.Since(d.grower.failed) >= growAgainAfter {
		sizes := d.larger(snap, rep)
		if sizes == nil {
			break
		}
		began := time.Now()
		next, err := d.build(snap, sizes)
		if err != nil {
			d.grower.failed = time.Now()
			d.log.Error("configuration maps cannot grow: what is served stays as it is", "error", err, "again_in", growAgainAfter)
			break
		}
		d.log.Info("configuration maps grew", "services", sizes["services"], "backends", sizes["backends"], "vips", sizes["vips"], "slots", sizes["slots"],
			"took", time.Since(began))
		next.Added, next.Changed, next.Removed = next.Added+rep.Added, next.Changed+rep.Changed, next.Removed+rep.Removed
		rep = next
	}
	return rep
}

// larger returns the sizes of a generation with more room, enough for snap at
// once; nil if none is needed, or none is left.
func (d *Dataplane) larger(snap *lb.Snapshot, rep dataplane.Report) map[string]uint32 {
	refused := make(map[string]bool)
	for _, err := range rep.Failed {
		var full *FullError
		if errors.As(err, &full) {
			refused[full.Map] = true
		}
	}
	levels := d.levels()
	if !slices.ContainsFunc(levels, func(f level) bool { return f.tight() || refused[f.Map] }) {
		return nil // without counting all services, at each change of one
	}
	sizes, grows := needOf(snap).sizes(d.limits), false
	for _, f := range levels {
		want := max(sizes[f.Map], f.Max)
		switch {
		case !f.tight() && !refused[f.Map]:
		case f.Max < f.Limit:
			want = max(want, uint32(min(2*uint64(f.Max), uint64(f.Limit))))
			grows = true
		default:
			d.nearLimit(f)
		}
		setSize(sizes, f.Map, want)
	}
	if !grows {
		return nil
	}
	return sizes
}

// nearLimit says once of each map that it will soon be full.
func (d *Dataplane) nearLimit(f level) {
	if d.grower.warned == nil {
		d.grower.warned = make(map[string]bool)
	}
	if !d.grower.warned[f.Map] {
		d.grower.warned[f.Map] = true
		d.log.Warn("a map is near its limit", "map", f.Map, "used", f.Used, "limit", f.Limit, "flag", "--"+f.Map+"-max")
	}
}
