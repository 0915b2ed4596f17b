// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

func TestWhichDataplane(t *testing.T) {
	good := func() error { return nil }
	old := func() error { return &ebpf.Obstacle{What: "kernel", Err: errors.New("the kernel is Linux 5.15")} }
	for _, tt := range []struct {
		word         string
		running      bool
		cgroup, ebpf func() error
		name, reason string
		why          string
	}{
		{"ebpf", false, old, old, "ebpf", "flag", "--dataplane says so"},
		{"ipvs", true, good, good, "ipvs", "flag", "--dataplane says so"},
		{"auto", false, good, good, "ebpf", "probe", "the kernel takes the programs"},
		{"auto", true, good, old, "ebpf", "running", "its programs run here already"},
		{"auto", false, good, old, "ipvs", "kernel", "the kernel is Linux 5.15"},
		{"auto", false, good, func() error { return errors.New("verifier") }, "ipvs", "programs", "verifier"},
		{"auto", true, func() error { return errors.New("no control groups") }, good, "ipvs", "cgroup", "no control groups"},
	} {
		got := choose(tt.word, probes{running: func() bool { return tt.running }, cgroup: tt.cgroup, ebpf: tt.ebpf})
		if got.name != tt.name || got.reason != tt.reason || !strings.Contains(got.why, tt.why) {
			t.Errorf("%+v: %+v", tt, got)
		}
		if fell := tt.word == "auto" && tt.name == "ipvs"; got.fellBack() != fell {
			t.Errorf("%+v: fell back: %v", tt, got.fellBack())
		}
	}
}

// TestFlagsOfTheOtherDataplane: each that only eBPF has is refused by name.
func TestFlagsOfTheOtherDataplane(t *testing.T) {
	for _, name := range ofEBPF {
		e := newTestEnv(nil)
		cmd := runCommand(&e.env, new(runFlags))
		flag := cmd.Flags().Lookup(name)
		if flag == nil {
			t.Errorf("--%s is no flag", name)
			continue
		}
		value := map[string]string{"uint32": "65536", "string": "all", "stringSlice": "eth0"}[flag.Value.Type()]
		got := e.transcript(t, "run", "--services", "x.yaml", "--dataplane", "ipvs", "--"+name, value)
		if !strings.Contains(got, "--"+name+" is for --dataplane auto or ebpf") || !strings.Contains(got, "exit 2") {
			t.Errorf("--%s with ipvs:\n%s", name, got)
		}
	}
}

// limited is a dataplane that cannot do everything.
type limited struct {
	*fake.Dataplane
	refused lb.ServiceID
	failed  map[lb.ServiceID]error
}

func (d *limited) Supports(svc *lb.Service) error {
	if svc.ID == d.refused {
		return errors.New("no such thing")
	}
	return d.Dataplane.Supports(svc)
}

func (d *limited) Apply(*lb.Snapshot) dataplane.Report { return dataplane.Report{Failed: d.failed} }

func (*limited) Tasks() []task.Task { return nil }

func (*limited) Status() (dataplane.Status, error) { return dataplane.Status{}, nil }

func TestWhatADataplaneCannotDoIsTold(t *testing.T) {
	id := func(name string) lb.ServiceID { return lb.ServiceID{Name: name, Family: lb.IPv4} }
	d := &limited{fake.New(fake.Options{}), id("refused"), nil}
	differs := []string{"affinity is each frontend's own"}
	var events []string
	var log bytes.Buffer
	told := newTold(&serving{forwarder: d, differences: func(svc *lb.Service) []string {
		if svc.ID == id("differs") {
			return differs
		}
		return nil
	}}, func(id lb.ServiceID, reason, text string) { events = append(events, id.Name+" "+reason+" "+text) }, slog.New(slog.NewTextHandler(&log, nil)))
	var list []*lb.Service
	for _, name := range []string{"plain", "refused", "differs"} {
		list = append(list, &lb.Service{ID: id(name), Scheduler: "rr"})
	}
	for range 2 {
		for _, svc := range list {
			if err := told.Supports(svc); (err != nil) != (svc.ID.Name == "refused") {
				t.Errorf("%s: %v", svc.ID, err)
			}
		}
	}
	d.failed = map[lb.ServiceID]error{id("plain"): errors.New("modprobe ip_vs_sh")}
	told.Apply(nil)
	told.Apply(nil)
	want := []string{
		"refused DataplaneUnsupported no such thing", "differs DataplaneDiffers affinity is each frontend's own",
		"refused DataplaneUnsupported no such thing", "plain DataplaneFailed modprobe ip_vs_sh",
	}
	if d := cmp.Diff(want, events); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if n := strings.Count(log.String(), "service served not quite as desired"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, &log)
	}
	snap, err := lb.NewSnapshot(list...)
	if err != nil {
		t.Fatal(err)
	}
	if got := told.Otherwise(snap); len(got) != 1 || got[id("differs")].Error() != differs[0] {
		t.Errorf("otherwise: %v", got)
	}
	if got := told.Otherwise(&lb.Snapshot{}); len(got) != 0 {
		t.Errorf("otherwise, of services that are gone: %v", got)
	}
}

// other is a dataplane that leaves.
type other struct {
	live     int
	err      error // of Follow
	followed []*lb.Snapshot
	closed   int
	ended    int
}

func (o *other) Follow(snap *lb.Snapshot) error {
	o.followed = append(o.followed, snap)
	return o.err
}

func (*other) Tasks() []task.Task { return nil }

func (o *other) Live() (int, error) { return o.live, nil }

func (o *other) Close() error { o.closed++; return nil }

func (o *other) End() ([]string, error) { o.ended++; return []string{"all"}, nil }

// handingOver runs one in a bubble of time, until test ends.
func handingOver(t *testing.T, o *other, test func(h *handover, complete func())) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		snap := &lb.Snapshot{}
		h := &handover{
			name: "ipvs", old: o, drain: time.Minute, ready: ready, log: slog.New(slog.DiscardHandler), status: cli.Leaving{Name: "ipvs"},
			loop: func() control.Status { return control.Status{Desired: snap} },
		}
		done := make(chan error, 1)
		go func() { done <- h.Run(t.Context()) }()
		test(h, func() { close(ready); synctest.Wait() })
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestTheOtherDataplaneLeavesAfterItsLastConnection(t *testing.T) {
	o := &other{live: 2}
	handingOver(t, o, func(h *handover, complete func()) {
		time.Sleep(time.Hour)
		if len(o.followed) > 0 || o.ended > 0 || h.Status().Until != nil {
			t.Errorf("it leaves before the new one is complete: %+v", o)
		}
		complete()
		if len(o.followed) != 1 || o.ended > 0 || h.Status().Connections != 2 || h.Status().Until == nil || !h.leaves() {
			t.Errorf("it has connections: %+v, %+v", o, h.Status())
		}
		select {
		case <-h.Ready():
		default:
			t.Error("the new one serves, and is not ready")
		}
		o.live = 0
		time.Sleep(10 * time.Second)
		if o.ended != 1 || !h.Status().Removed || h.leaves() || len(o.followed) != 1 {
			t.Errorf("it has none: %+v, %+v", o, h.Status())
		}
	})
	if o.closed > 0 {
		t.Error("it was closed after its end")
	}
}

func TestTheOtherDataplaneLeavesWhenItsTimeIsOver(t *testing.T) {
	o := &other{live: 1}
	handingOver(t, o, func(h *handover, complete func()) {
		complete()
		time.Sleep(59 * time.Second)
		if o.ended > 0 {
			t.Error("it ended early")
		}
		time.Sleep(10 * time.Second)
		if o.ended != 1 {
			t.Error("it goes on for ever")
		}
	})
}

func TestTheOtherDataplaneIsAskedAgain(t *testing.T) {
	o := &other{err: errors.New("map is full")}
	handingOver(t, o, func(h *handover, complete func()) {
		complete()
		time.Sleep(time.Hour)
		if o.ended > 0 || len(o.followed) < 10 || h.Status().Until != nil {
			t.Errorf("it did not stop to take connections: %+v", o)
		}
		o.err = nil
		time.Sleep(10 * time.Second)
		if o.ended != 1 {
			t.Errorf("it is there: %+v", o)
		}
	})
}
