// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// Status is the output of `waggle status`.
type Status struct {
	header
	// Version is of the binary that prints it.
	Version Build  `json:"version"`
	PinPath string `json:"pinPath"`
	Agent
	// Generation numbers the configurations that were published at the pin path.
	Generation int       `json:"generation"`
	Services   int       `json:"services"`
	Backends   int       `json:"backends"`
	Flows      FlowTable `json:"flows"`
	Counts     Counts    `json:"counts"`
	// Drops are the reasons that occurred, the most packets first.
	Drops []DropCount `json:"drops"`
	Maps  []MapFill   `json:"maps"`
}

// Choice is one of several ways, and the reason.
type Choice struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Agent is what the daemon says at its socket. Without one Daemon is null,
// DaemonError says why, and the rest is from the pins.
type Agent struct {
	// Dataplane is which one serves, and why that.
	Dataplane   Choice  `json:"dataplane"`
	Daemon      *Daemon `json:"daemon"`
	DaemonError string  `json:"daemonError"`
	// Attach is how programs are attached, and why so.
	Attach  Choice   `json:"attach"`
	Devices []Device `json:"devices"`
	Sockets Sockets  `json:"sockets"`
}

// Sockets says whose sockets are led to backends.
type Sockets struct {
	// Cgroup is the control group, by its path or, without a daemon, its id; "":
	// none are.
	Cgroup string `json:"cgroup"`
	// Hooks of it have a program.
	Hooks []string `json:"hooks"`
}

// Daemon is what only the daemon knows.
type Daemon struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Started is when the process did.
	Started time.Time `json:"started"`
	Sources []Source  `json:"sources"`
	// Apply is the last write to the kernel; null: there was none yet.
	Apply *Apply `json:"apply"`
	// Applies counts the writes, Incomplete those that left something to be
	// tried again; Retries is how many of these there were since the desired
	// state changed.
	Applies    uint64 `json:"applies"`
	Incomplete uint64 `json:"incomplete"`
	Retries    int    `json:"retries"`
	// Refused are the services that are not served as desired.
	Refused []Problem `json:"refused"`
	Audit   *Audit    `json:"audit"`
	// Mended counts what others took away and the daemon put back, Followed the
	// devices and addresses that came and went. Broken is what it cannot mend.
	Mended   map[string]uint64 `json:"mended"`
	Followed map[string]uint64 `json:"followed"`
	Broken   []string          `json:"broken"`
	// Otherwise are the services that are served, but not quite as desired: a
	// dataplane cannot do all that another does.
	Otherwise []Problem `json:"otherwise"`
	// Leaving is the dataplane that served before; null: there was another none.
	Leaving *Leaving `json:"leaving"`
	// KubeProxy is what that left here, and what becomes of it.
	KubeProxy takeover.Status `json:"kubeProxy"`
	// Grows says to how many places maps may grow, by name.
	Grows map[string]uint32 `json:"grows"`
}

// Leaving is a dataplane that another has taken over from, until its last connection
// ends or its time is over.
type Leaving struct {
	Name string `json:"name"`
	// Connections go on through it. Until is when they end; null: the other one is
	// not complete yet.
	Connections int        `json:"connections"`
	Until       *time.Time `json:"until"`
	// Removed says that it is gone.
	Removed bool `json:"removed"`
}

// Source is what a source of services has delivered.
type Source struct {
	Name string `json:"name"`
	// Synced says that it has delivered a full state.
	Synced   bool `json:"synced"`
	Services int  `json:"services"`
}

// Apply is one write to the kernel.
type Apply struct {
	At          time.Time `json:"at"`
	TookSeconds float64   `json:"tookSeconds"`
	Added       int       `json:"added"`
	Changed     int       `json:"changed"`
	Removed     int       `json:"removed"`
	// Failed are the services that it failed for. Error is empty unless nothing
	// could be written at all.
	Failed []Problem `json:"failed"`
	Error  string    `json:"error"`
}

// Problem is a service and what is wrong with it.
type Problem struct {
	Service string `json:"service"`
	Family  string `json:"family"`
	Error   string `json:"error"`
}

// Audit is the daemon's last recount.
type Audit struct {
	At         time.Time `json:"at"`
	Difference uint64    `json:"difference"`
}

// Device is a network device and which programs it has. Why says why one is
// missing.
type Device struct {
	Name    string `json:"name"`
	Index   int    `json:"index"`
	Ingress bool   `json:"ingress"`
	Egress  bool   `json:"egress"`
	Why     string `json:"why"`
	// XDP is native, generic or off, and XDPWhy says why.
	XDP    string `json:"xdp"`
	XDPWhy string `json:"xdpWhy"`
}

// FlowTable is how full the flow table is: a flow has two entries or more.
type FlowTable struct {
	Entries  uint32 `json:"entries"`
	Limit    uint32 `json:"limit"`
	HalfOpen uint64 `json:"halfOpen"`
}

// MapFill is how full a map is.
type MapFill struct {
	Name  string `json:"name"`
	Used  uint32 `json:"used"`
	Limit uint32 `json:"limit"`
}

// Process is the daemon's.
type Process struct {
	PID             int
	Version, Commit string
	Started         time.Time
}

// Chosen is what a daemon knows of its dataplane, beside what that says.
type Chosen struct {
	// Why it is that one.
	Why string
	// Otherwise are what it does otherwise than services ask for; one sentence each.
	Otherwise map[lb.ServiceID]error
	Leaving   *Leaving
}

// NewAgent makes what a daemon says of itself.
func NewAgent(p Process, loop control.Status, dp *dataplane.Status, chosen Chosen, leftovers takeover.Status) *Agent {
	d := &Daemon{
		PID: p.PID, Version: p.Version, Commit: p.Commit, Started: p.Started.UTC(), Sources: make([]Source, 0, len(loop.Sources)),
		Applies: loop.Applies, Incomplete: loop.Incomplete, Retries: loop.Retries, Refused: problems(loop.Refused),
		Mended: dp.Mended, Followed: dp.Followed, Broken: append([]string{}, dp.Broken...),
		Otherwise: problems(chosen.Otherwise), Leaving: chosen.Leaving,
		Grows: dp.Grows, KubeProxy: leftovers,
	}
	for _, s := range loop.Sources {
		d.Sources = append(d.Sources, Source{s.Name, s.Delivered, s.Services})
	}
	if r := loop.Report; loop.Applies > 0 {
		d.Apply = &Apply{
			At: loop.Applied.UTC(), TookSeconds: loop.Took.Seconds(), Added: r.Added, Changed: r.Changed, Removed: r.Removed, Failed: problems(r.Failed),
		}
		if r.Err != nil {
			d.Apply.Error = r.Err.Error()
		}
	}
	if !dp.Audited.IsZero() {
		d.Audit = &Audit{dp.Audited.UTC(), dp.Audit.Difference}
	}
	a := PinnedAgent(dp, "")
	a.Daemon, a.Dataplane.Why = d, chosen.Why
	return a
}

// PinnedAgent makes what the pins say in its place. why says why the daemon does
// not.
func PinnedAgent(dp *dataplane.Status, why string) *Agent {
	a := &Agent{Dataplane: Choice{dp.Dataplane, "the kernel holds what it made"}, DaemonError: why, Attach: Choice{dp.Method, dp.Why}, Devices: make([]Device, 0, len(dp.Devices))}
	for _, d := range dp.Devices {
		a.Devices = append(a.Devices, Device{d.Name, d.Index, d.Ingress, d.Egress, d.Why, d.XDP, d.XDPWhy})
	}
	a.Sockets = Sockets{dp.Cgroup, append([]string{}, dp.Hooks...)}
	return a
}

func problems(errs map[lb.ServiceID]error) []Problem {
	out := make([]Problem, 0, len(errs))
	for id, err := range errs {
		out = append(out, Problem{id.Name, id.Family.String(), err.Error()})
	}
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Family, b.Family))
	})
	return out
}

// StatusInput is what a Status is made of. The zero Stats and Pins are those of
// a pin path where nothing was published yet.
type StatusInput struct {
	Version Build
	PinPath string
	Agent   *Agent
	Pins    dataplane.Status
	Stats   *Stats
}

// NewStatus makes the document.
func NewStatus(in StatusInput) *Status {
	s := &Status{
		header: header{APIVersion, "Status"}, Version: in.Version, PinPath: in.PinPath, Agent: *in.Agent,
		Generation: in.Pins.Generation, Flows: FlowTable{in.Pins.Entries, in.Pins.Limit, in.Pins.HalfOpen},
		Services: in.Stats.Totals.Services, Backends: in.Stats.Totals.Backends, Counts: in.Stats.Counts,
		Drops: append([]DropCount{}, in.Stats.Drops...), Maps: make([]MapFill, 0, len(in.Pins.Maps)),
	}
	s.Drops = slices.DeleteFunc(s.Drops, func(d DropCount) bool { return d.Packets == 0 })
	slices.SortStableFunc(s.Drops, func(a, b DropCount) int { return cmp.Compare(b.Packets, a.Packets) })
	for _, f := range in.Pins.Maps {
		s.Maps = append(s.Maps, MapFill{f.Map, f.Used, f.Limit})
	}
	return s
}
