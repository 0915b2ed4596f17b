// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// Traffic is the schema of counters. Active and Inactive are gauges, the
// others only grow; bytes are those of IP packets, header included.
type Traffic struct {
	Active      uint64 `json:"active"`
	Inactive    uint64 `json:"inactive"`
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"inPackets"`
	InBytes     uint64 `json:"inBytes"`
	OutPackets  uint64 `json:"outPackets"`
	OutBytes    uint64 `json:"outBytes"`
}

func (t *Traffic) add(c dataplane.BackendCounters) {
	t.Active += c.Active
	t.Inactive += c.Inactive
	t.Connections += c.Connections
	t.InPackets += c.InPackets
	t.InBytes += c.InBytes
	t.OutPackets += c.OutPackets
	t.OutBytes += c.OutBytes
}

// ServiceList is the output of `waggle services`.
type ServiceList struct {
	header
	Items []Service `json:"items"`
}

// Service is one service and the sum of its backends' counters, those of
// draining backends included.
type Service struct {
	Name      string `json:"name"`
	Family    string `json:"family"`
	Scheduler string `json:"scheduler"`
	// Flags are of the scheduler, such as "sh-port".
	Flags []string `json:"flags"`
	// Affinity is null if clients are not kept.
	Affinity *Affinity `json:"affinity"`
	// OnePacket says that each datagram is scheduled by itself.
	OnePacket bool `json:"onePacket"`
	// Masquerade is "never", or how clients are masqueraded, at some frontend at least.
	Masquerade string `json:"masquerade"`
	// LostBackend is "keep", "reset" or "drop": what becomes of connections
	// whose backend is gone. PortReuse is "any", "finished" or "never": when a
	// client port that is used again gets a new one.
	LostBackend string `json:"lostBackend"`
	PortReuse   string `json:"portReuse"`
	// Sockets is "all" or "host": whose sockets are led when they connect, unless
	// --socket-lb says less.
	Sockets   string   `json:"sockets"`
	Frontends []string `json:"frontends"`
	Backends  int      `json:"backends"`
	Traffic
}

// Affinity is how long a client stays at its backend.
type Affinity struct {
	TimeoutSeconds uint64 `json:"timeoutSeconds"`
	// Mask is how many bits of a client's address count.
	Mask uint8 `json:"mask"`
	// Quiesced is "pick" or "keep": whether a backend of weight 0 keeps its
	// clients.
	Quiesced string `json:"quiesced"`
	// Lapses says that connections do not make it last longer.
	Lapses bool `json:"lapses"`
}

// NewServiceList makes the list of the snapshot's services, by name and family.
func NewServiceList(snap *lb.Snapshot, c dataplane.Counters) *ServiceList {
	sums := make(map[lb.ServiceID]*Traffic)
	for id, b := range c.Backends {
		if sums[id.Service] == nil {
			sums[id.Service] = &Traffic{}
		}
		sums[id.Service].add(b)
	}
	l := &ServiceList{header: header{APIVersion, "ServiceList"}, Items: make([]Service, 0, snap.Len())}
	for svc := range snap.All() {
		item := Service{
			Name: svc.ID.Name, Family: svc.ID.Family.String(), Scheduler: svc.Scheduler,
			Flags: append([]string{}, sched.FlagNames(svc.Scheduler, svc.SchedulerFlags)...), Affinity: affinity(svc.Affinity),
			OnePacket: svc.OnePacket, Masquerade: svc.Masquerade().String(), LostBackend: svc.Lost.String(), PortReuse: svc.Reuse.String(), Sockets: svc.Sockets(),
			Frontends: frontends(svc), Backends: len(svc.Backends),
		}
		if t := sums[svc.ID]; t != nil {
			item.Traffic = *t
		}
		l.Items = append(l.Items, item)
	}
	return l
}

func affinity(a lb.Affinity) *Affinity {
	if !a.Enabled() {
		return nil
	}
	out := &Affinity{TimeoutSeconds: uint64(a.Timeout / time.Second), Mask: a.Prefix, Quiesced: "pick", Lapses: a.Lapses}
	if a.Quiesced {
		out.Quiesced = "keep"
	}
	return out
}

// options are what is not as it is unless something is written, in the words
// of the YAML input.
func (s *Service) options() string {
	out := slices.Clone(s.Flags)
	add := func(is bool, format string, args ...any) {
		if is {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	if a := s.Affinity; a != nil {
		add(true, "affinity=%ds/%d", a.TimeoutSeconds, a.Mask)
		add(a.Quiesced != "pick", "quiesced=%s", a.Quiesced)
		add(a.Lapses, "lapses")
	}
	add(s.OnePacket, "onePacket")
	add(s.LostBackend != lb.LostKeep.String(), "lostBackend=%s", s.LostBackend)
	add(s.PortReuse != lb.ReuseAny.String(), "portReuse=%s", s.PortReuse)
	add(s.Sockets != lb.SocketWords[0], "sockets=%s", s.Sockets)
	return cmp.Or(strings.Join(out, ","), "-")
}

// frontends are sorted, because the kernel's map has no order of its own.
func frontends(svc *lb.Service) []string {
	out := make([]string, 0, len(svc.Frontends))
	for _, f := range slices.SortedFunc(slices.Values(svc.Frontends), lb.Frontend.Compare) {
		out = append(out, f.String())
	}
	return out
}

// shownFrontends is how many the narrow table shows of each service.
const shownFrontends = 2

func (l *ServiceList) rows(w *rows, wide bool) {
	head := []any{"NAME", "FAMILY", "SCHEDULER", "FRONTENDS", "BACKENDS", "ACTIVE", "INACTIVE", "OPTIONS"}
	if wide {
		head = append(append(head, "MASQUERADE"), trafficHead()...)
	}
	w.add(head...)
	for _, s := range l.Items {
		front, more := s.Frontends, ""
		if n := len(front) - shownFrontends; n > 0 && !wide {
			front, more = front[:shownFrontends], fmt.Sprintf(",+%d", n)
		}
		// No cell is empty: programs that split at spaces count columns.
		shown := cmp.Or(strings.Join(front, ",")+more, "-")
		row := []any{s.Name, s.Family, s.Scheduler, shown, s.Backends, s.Active, s.Inactive, s.options()}
		if wide {
			row = append(append(row, s.Masquerade, s.Connections), trafficCells(s.Traffic)...)
		}
		w.add(row...)
	}
}

func trafficHead() []any {
	return []any{"CONNECTIONS", "IN-PACKETS", "IN-BYTES", "OUT-PACKETS", "OUT-BYTES"}
}

func trafficCells(t Traffic) []any {
	return []any{t.InPackets, t.InBytes, t.OutPackets, t.OutBytes}
}
