// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/takeover"
)

// How many of a kind the narrow table names.
const (
	shownDevices  = 8
	shownProblems = 10
	shownDrops    = 5
)

// rows writes one screen; wide names all devices, problems and drops.
func (s *Status) rows(w *rows, wide bool) {
	v := s.Version
	w.add("waggle", fmt.Sprintf("%s, commit %s, %s %s", v.Version, v.commit(), v.Go, v.Platform))
	w.add("kernel", v.Kernel)
	w.add("pin path", fmt.Sprintf("%s, generation %d", s.PinPath, s.Generation))
	w.add("dataplane", reasoned(s.Dataplane))
	w.add("attached by", reasoned(s.Attach))
	if !s.isIPVS() {
		w.add("sockets", s.Sockets.text())
		deviceRows(w, s.Devices, wide)
	}
	s.daemonRows(w)
	w.add("services", fmt.Sprintf("%d with %d backends", s.Services, s.Backends))
	s.flowRows(w)
	w.add("drops", dropLine(s.Drops, wide))
	if d := s.Daemon; d != nil {
		problemRows(w, "NOT SERVED AS DESIRED", "ERROR", d.Refused, wide)
		problemRows(w, "SERVED OTHERWISE", "HOW", d.Otherwise, wide)
		if d.Apply != nil {
			problemRows(w, "NOT WRITTEN", "ERROR", d.Apply.Failed, wide)
		}
	}
	if len(s.Maps) == 0 {
		return
	}
	w.add()
	w.add("MAP", "USED", "LIMIT", "FULL", "GROWS TO")
	for _, m := range s.Maps {
		var grows any = "-"
		if s.Daemon != nil && s.Daemon.Grows[m.Name] > 0 {
			grows = s.Daemon.Grows[m.Name]
		}
		w.add(m.Name, m.Used, m.Limit, percent(m.Used, m.Limit), grows)
	}
}

// isIPVS says that the kernel's own load balancer serves: it has no programs, and no
// table of flows that fills up.
func (s *Status) isIPVS() bool { return s.Dataplane.Name == "ipvs" }

func (s *Status) flowRows(w *rows) {
	if s.isIPVS() {
		return
	}
	w.add("flows", fmt.Sprintf("%d of %d entries (%s), %d half-open", s.Flows.Entries, s.Flows.Limit, percent(s.Flows.Entries, s.Flows.Limit), s.Flows.HalfOpen))
	w.add("counts", s.Counts.line())
}

func reasoned(c Choice) string {
	if c.Name == "" {
		return c.Why
	}
	return c.Name + ": " + c.Why
}

func percent(used, limit uint32) string {
	return fmt.Sprintf("%.1f%%", 100*float64(used)/float64(max(limit, 1)))
}

// deviceRows says where the programs are, and why they are not elsewhere.
func deviceRows(w *rows, devices []Device, wide bool) {
	most := shownDevices
	if wide {
		most = len(devices)
	}
	var with, without []string
	for _, d := range devices {
		switch {
		case d.Ingress && d.Egress:
			with = append(with, d.Name)
			continue
		case d.Ingress:
			with = append(with, d.Name+" (only ingress)")
		case d.Egress:
			with = append(with, d.Name+" (only egress)")
		}
		without = append(without, fmt.Sprintf("%s (%s)", d.Name, cmp.Or(d.Why, "not yet")))
	}
	w.add("programs on", some(with, most))
	w.add("none on", some(without, most))
	xdpRows(w, devices, most)
}

// xdpRows says where XDP is, and why not elsewhere; in one row if it is nowhere for
// one reason.
func xdpRows(w *rows, devices []Device, most int) {
	var with, without []string
	reasons := make(map[string]bool)
	for _, d := range devices {
		if d.XDP == "native" || d.XDP == "generic" {
			with = append(with, fmt.Sprintf("%s (%s)", d.Name, d.XDP))
			continue
		}
		reasons[d.XDPWhy] = true
		without = append(without, fmt.Sprintf("%s (%s)", d.Name, cmp.Or(d.XDPWhy, "not yet")))
	}
	if len(with) == 0 && len(reasons) == 1 {
		w.add("XDP", "off: "+cmp.Or(devices[0].XDPWhy, "not yet"))
		return
	}
	w.add("XDP on", some(with, most))
	w.add("no XDP on", some(without, most))
}

// some joins the first words of a list.
func some(words []string, most int) string {
	if n := len(words) - most; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), n)
	}
	return cmp.Or(strings.Join(words, ", "), "no device")
}

// daemonRows is what only a daemon knows, or that there is none.
func (s *Status) daemonRows(w *rows) {
	d := s.Daemon
	if d == nil {
		w.add("daemon", "not running: "+s.DaemonError)
		return
	}
	line := fmt.Sprintf("running since %s, pid %d", stamp(d.Started), d.PID)
	if d.Version != s.Version.Version || d.Commit != s.Version.Commit {
		line += fmt.Sprintf(", of version %s, commit %s", d.Version, d.Commit)
	}
	w.add("daemon", line)
	for _, src := range d.Sources {
		state := "not synced: nothing is written before it is"
		if src.Synced {
			state = fmt.Sprintf("synced, %d services", src.Services)
		}
		w.add("source", src.Name+": "+state)
	}
	if a := d.Apply; a == nil {
		w.add("last apply", "none yet")
	} else {
		w.add("last apply", fmt.Sprintf("%s, took %s: %d added, %d changed, %d removed, %d failed", stamp(a.At),
			time.Duration(a.TookSeconds*float64(time.Second)).Round(time.Microsecond), a.Added, a.Changed, a.Removed, len(a.Failed)))
		if a.Error != "" {
			w.add("apply failed", a.Error)
		}
	}
	w.add("applies", fmt.Sprintf("%d, of these %d incomplete; %d retries of the last state", d.Applies, d.Incomplete, d.Retries))
	if d.Audit != nil {
		w.add("last audit", fmt.Sprintf("%s, difference %d", stamp(d.Audit.At), d.Audit.Difference))
	}
	w.add("mended", countLine(d.Mended))
	w.add("followed", countLine(d.Followed))
	leavingRow(w, d.Leaving)
	kubeProxyRows(w, &d.KubeProxy)
	for _, text := range d.Broken {
		w.add("out of order", oneLine(text))
	}
}

// leavingRow says how far another dataplane is gone, if there was one.
func leavingRow(w *rows, l *Leaving) {
	switch {
	case l == nil || l.Removed:
	case l.Until == nil:
		w.add("leaving", l.Name+": it serves until this one is complete")
	default:
		w.add("leaving", fmt.Sprintf("%s: %d connections go on through it, until %s at most", l.Name, l.Connections, stamp(*l.Until)))
	}
}

// kubeProxyRows says what kube-proxy left, if it did.
func kubeProxyRows(w *rows, s *takeover.Status) {
	if len(s.Items) > 0 || s.Connections > 0 {
		found := cmp.Or(strings.Join(s.Items, ", "), "nothing is left")
		w.add("kube-proxy", fmt.Sprintf("%s; %d connections go on through it; --kube-proxy-leftovers %s", found, s.Connections, s.Mode))
	}
	for _, text := range s.Kept {
		w.add("kept", text)
	}
}

func countLine(counts map[string]uint64) string {
	var words []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s %d", what, counts[what]))
	}
	return cmp.Or(strings.Join(words, ", "), "nothing")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func dropLine(drops []DropCount, wide bool) string {
	var words []string
	for _, d := range drops {
		words = append(words, fmt.Sprintf("%s %d", d.Reason, d.Packets))
	}
	if len(words) == 0 {
		return "none"
	}
	most := shownDrops
	if wide {
		most = len(words)
	}
	return some(words, most) + "; `waggle stats` says what they mean"
}

// problemRows is a table of services, if there are any.
func problemRows(w *rows, title, what string, list []Problem, wide bool) {
	if len(list) == 0 {
		return
	}
	w.add()
	w.add(title, what)
	for i, p := range list {
		if i == shownProblems && !wide {
			w.add(fmt.Sprintf("and %d more", len(list)-i), "-")
			return
		}
		w.add(p.Service+"/"+p.Family, oneLine(p.Error))
	}
}

// oneLine keeps a table a table: joined errors have a line each.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

func (s Sockets) text() string {
	if s.Cgroup == "" {
		return "none are led"
	}
	return fmt.Sprintf("those of control group %s are led, by %d hooks", s.Cgroup, len(s.Hooks))
}
