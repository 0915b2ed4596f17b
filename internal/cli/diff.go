// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// Diff is the output of `waggle diff`: the services in which the kernel is not
// as desired.
type Diff struct {
	header
	Items []ServiceDiff `json:"items"`
}

// ServiceDiff is one service.
type ServiceDiff struct {
	Service string `json:"service"`
	Family  string `json:"family"`
	// Difference is "missing" if the kernel has no such service, "extra" if it
	// alone has it, "changed" if both have it.
	Difference string `json:"difference"`
	// Fields are what differs of a changed one.
	Fields []FieldDiff `json:"fields"`
}

// FieldDiff is one thing that differs, in words: "scheduler", "backend
// 192.0.2.2:8080", "order of backends". What one side does not have is "none".
type FieldDiff struct {
	Field   string `json:"field"`
	Desired string `json:"desired"`
	Kernel  string `json:"kernel"`
}

const none = "none"

// NewDiff compares what is desired with what the kernel holds.
func NewDiff(desired, kernel *lb.Snapshot) *Diff {
	d := &Diff{header: header{APIVersion, "Diff"}, Items: []ServiceDiff{}}
	add := func(svc *lb.Service, what string, fields []FieldDiff) {
		d.Items = append(d.Items, ServiceDiff{svc.ID.Name, svc.ID.Family.String(), what, fields})
	}
	for svc := range desired.All() {
		held := kernel.Service(svc.ID)
		if held == nil {
			add(svc, "missing", []FieldDiff{})
		} else if fields := fieldDiffs(svc, held); len(fields) > 0 {
			add(svc, "changed", fields)
		}
	}
	for svc := range kernel.All() {
		if desired.Service(svc.ID) == nil {
			add(svc, "extra", []FieldDiff{})
		}
	}
	return d
}

// Empty reports whether nothing differs.
func (d *Diff) Empty() bool { return len(d.Items) == 0 }

// fieldDiffs says in words in what two services of one name differ.
func fieldDiffs(desired, kernel *lb.Service) (out []FieldDiff) {
	add := func(field, a, b string) {
		if a != b {
			out = append(out, FieldDiff{field, a, b})
		}
	}
	add("scheduler", scheduler(desired), scheduler(kernel))
	add("affinity", affinityText(desired.Affinity), affinityText(kernel.Affinity))
	add("onePacket", fmt.Sprint(desired.OnePacket), fmt.Sprint(kernel.OnePacket))
	add("lostBackend", desired.Lost.String(), kernel.Lost.String())
	add("portReuse", desired.Reuse.String(), kernel.Reuse.String())
	add("sockets", desired.Sockets(), kernel.Sockets())
	a, b := frontendTexts(desired), frontendTexts(kernel)
	for _, f := range bothOf(keys(desired.Frontends), keys(kernel.Frontends), lb.Frontend.Compare) {
		add("frontend "+f.String(), textOr(a, f), textOr(b, f))
	}
	add("source ranges", fmt.Sprint(desired.SourceRanges), fmt.Sprint(kernel.SourceRanges))
	return append(out, backendDiffs(desired, kernel)...)
}

func scheduler(svc *lb.Service) string {
	return strings.Join(append([]string{svc.Scheduler}, sched.FlagNames(svc.Scheduler, svc.SchedulerFlags)...), ", ")
}

func affinityText(a lb.Affinity) string {
	quiesced := "pick"
	if a.Quiesced {
		quiesced = "keep"
	}
	if !a.Enabled() {
		return none
	}
	text := fmt.Sprintf("timeout %s, mask %d, quiesced %s", a.Timeout, a.Prefix, quiesced)
	if a.Lapses {
		text += ", lapses"
	}
	return text
}

func frontendTexts(svc *lb.Service) map[lb.Frontend]string {
	out := make(map[lb.Frontend]string)
	for _, f := range svc.Frontends {
		out[f.Key()] = frontendText(f)
	}
	return out
}

// frontendText says what a frontend says beside its key.
func frontendText(f lb.Frontend) string {
	words := []string{"there"}
	if f.Policy != lb.PolicyCluster {
		words = append(words, "policy "+f.Policy.String())
	}
	if f.Masquerade != lb.MasqueradeNever {
		words = append(words, "masquerade "+f.Masquerade.String())
	}
	if f.Restricted {
		words = append(words, "restricted")
	}
	return strings.Join(words, ", ")
}

func keys(frontends []lb.Frontend) []lb.Frontend {
	out := make([]lb.Frontend, len(frontends))
	for i, f := range frontends {
		out[i] = f.Key()
	}
	return out
}

func textOr[K comparable](texts map[K]string, key K) string {
	if s, ok := texts[key]; ok {
		return s
	}
	return none
}

// bothOf are the elements of two lists, sorted, each once.
func bothOf[T comparable](a, b []T, compare func(T, T) int) []T {
	all := slices.SortedFunc(slices.Values(slices.Concat(a, b)), compare)
	return slices.Compact(all)
}

// backendDiffs compares backends, and the order of those that both have.
func backendDiffs(desired, kernel *lb.Service) (out []FieldDiff) {
	a, b := backendTexts(desired), backendTexts(kernel)
	for _, addr := range bothOf(addrs(desired, nil), addrs(kernel, nil), netip.AddrPort.Compare) {
		if x, y := textOr(a, addr), textOr(b, addr); x != y {
			out = append(out, FieldDiff{"backend " + addr.String(), x, y})
		}
	}
	wants, has := addrs(desired, b), addrs(kernel, a)
	for i := range wants {
		if wants[i] != has[i] {
			at := fmt.Sprintf(" at place %d", i+1)
			return append(out, FieldDiff{"order of backends", wants[i].String() + at, has[i].String() + at})
		}
	}
	return out
}

// addrs are the addresses of a service's backends in their order: of those that
// are in others, unless that is nil.
func addrs(svc *lb.Service, others map[netip.AddrPort]string) (out []netip.AddrPort) {
	for _, b := range svc.Backends {
		if _, ok := others[b.Addr]; ok || others == nil {
			out = append(out, b.Addr)
		}
	}
	return out
}

// outsideWords say which pools a backend is not in.
var outsideWords = [...]string{
	0: "", lb.Cluster: ", in the local pool only", lb.Local: ", in the cluster pool only", lb.Cluster | lb.Local: ", in no pool",
}

func backendTexts(svc *lb.Service) map[netip.AddrPort]string {
	out := make(map[netip.AddrPort]string, len(svc.Backends))
	for _, b := range svc.Backends {
		text := fmt.Sprintf("weight %d", b.Weight)
		if b.Upper > 0 || b.Lower > 0 {
			text += fmt.Sprintf(", upper %d, lower %d", b.Upper, b.Lower)
		}
		if b.Unhealthy {
			text += ", unhealthy"
		}
		text += outsideWords[b.Outside]
		out[b.Addr] = text
	}
	return out
}

// rows writes nothing if nothing differs.
func (d *Diff) rows(w *rows, _ bool) {
	if d.Empty() {
		return
	}
	w.add("SERVICE", "DIFFERENCE", "FIELD", "DESIRED", "KERNEL")
	for _, s := range d.Items {
		name := s.Service + "/" + s.Family
		if len(s.Fields) == 0 {
			w.add(name, s.Difference, "-", "-", "-")
		}
		for _, f := range s.Fields {
			w.add(name, s.Difference, f.Field, f.Desired, f.Kernel)
		}
	}
}
