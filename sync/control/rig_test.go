// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

func id(name string) lb.ServiceID { return lb.ServiceID{Name: name, Family: lb.IPv4} }

// service describes one at VIP 10.1.0.vip, with backends 10.2.0.N.
func service(name string, vip byte, backends ...byte) *lb.Service {
	svc := &lb.Service{ID: id(name), Scheduler: "rr", Frontends: []lb.Frontend{frontend(vip)}}
	for _, n := range backends {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: addr(2, n, 8080), Weight: 1})
	}
	return svc
}

// unsupported is service with a scheduler that the rig does not have.
func unsupported(name string, vip byte, backends ...byte) *lb.Service {
	svc := service(name, vip, backends...)
	svc.Scheduler = "dice"
	return svc
}

func frontend(vip byte) lb.Frontend { return lb.Frontend{Addr: addr(1, vip, 80), Protocol: lb.TCP} }

func addr(net, n byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, net, 0, n}), port)
}

func snapshot(t *testing.T, services ...*lb.Service) *lb.Snapshot {
	t.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// show lists services as "web:1>2,3": name, last bytes of VIPs, of backends.
func show(snap *lb.Snapshot) string {
	var out []string
	for svc := range snap.All() {
		var vips, backends []string
		for _, f := range svc.Frontends {
			vips = append(vips, fmt.Sprint(f.Addr.Addr().As4()[3]))
		}
		for _, b := range svc.Backends {
			backends = append(backends, fmt.Sprint(b.Addr.Addr().As4()[3]))
		}
		out = append(out, svc.ID.Name+":"+strings.Join(vips, ",")+">"+strings.Join(backends, ","))
	}
	return strings.Join(out, " ")
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

// take returns the lines since the last time.
func (b *buffer) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.out.Reset()
	return strings.Split(strings.TrimSuffix(b.out.String(), "\n"), "\n")
}

func (b *buffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "took" {
			return slog.Attr{}
		}
		return a
	}}))
}

var errFault = errors.New("disk on fire")

// rig is a loop on a fake dataplane, in a bubble of synctest.
type rig struct {
	*fake.Dataplane
	t      *testing.T
	loop   *control.Loop
	log    buffer
	start  time.Time
	cancel context.CancelFunc
	ended  chan error

	slow time.Duration // what an Apply takes

	mu      sync.Mutex
	faults  map[string]bool // "add web" or "apply ": what fails
	applies []string        // with the time since start: "10ms web:1>2"
	calls   []string        // what else was called: "add web", "read ", "supports web"
}

// newRig makes one. kernel is what a process before left; nil: nothing.
func newRig(t *testing.T, opts control.Options, kernel *fake.Kernel) *rig {
	t.Helper()
	r := &rig{t: t, start: time.Now(), ended: make(chan error, 1), faults: make(map[string]bool)}
	r.Dataplane = fake.New(fake.Options{Kernel: kernel, Fail: r.asked})
	opts.Dataplane, opts.Logger = r, r.log.logger()
	loop, err := control.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.loop = loop
	return r
}

// asked is fake.Options.Fail.
func (r *rig) asked(op fake.Op, svc lb.ServiceID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what := string(op) + " " + svc.Name
	if op != fake.OpApply {
		r.calls = append(r.calls, what)
	}
	if r.faults[what] {
		return errFault
	}
	return nil
}

// fail sets which calls fail from now on.
func (r *rig) fail(calls ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.faults)
	for _, c := range calls {
		r.faults[c] = true
	}
}

func (r *rig) Supports(svc *lb.Service) error {
	r.mu.Lock()
	r.calls = append(r.calls, "supports "+svc.ID.Name)
	r.mu.Unlock()
	if svc.Scheduler != "rr" {
		return fmt.Errorf("no %s for %s", svc.Scheduler, svc.ID)
	}
	return r.Dataplane.Supports(svc)
}

func (r *rig) Apply(snap *lb.Snapshot) dataplane.Report {
	r.mu.Lock()
	r.applies = append(r.applies, strings.TrimSuffix(fmt.Sprintf("%s %s", time.Since(r.start), show(snap)), " "))
	r.mu.Unlock()
	time.Sleep(r.slow)
	return r.Dataplane.Apply(snap)
}

// run starts the loop. It ends with the test.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel = cancel
	r.t.Cleanup(cancel)
	go func() { r.ended <- r.loop.Run(ctx) }()
	synctest.Wait()
}

// stop ends the loop and returns what Run returned.
func (r *rig) stop() error {
	r.cancel()
	return <-r.ended
}

// settle lets d pass and then the loop do what it has to.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wantApplies compares the calls of Apply since the last time.
func (r *rig) wantApplies(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.takeApplies()); diff != "" {
		r.t.Errorf("applies (-want +got):\n%s", diff)
	}
}

func (r *rig) takeApplies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.applies = nil }()
	return r.applies
}

// wantCalls compares the other calls since the last time: "add web, read ".
func (r *rig) wantCalls(want string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, strings.Join(r.calls, ", ")); diff != "" {
		r.t.Errorf("calls (-want +got):\n%s", diff)
	}
	r.calls = nil
}

// wantHeld compares what the kernel serves.
func (r *rig) wantHeld(want string) {
	r.t.Helper()
	held, err := fake.New(fake.Options{Kernel: r.Kernel()}).Read()
	if err != nil {
		r.t.Fatal(err)
	}
	if got := show(held); got != want {
		r.t.Errorf("the kernel serves %q, want %q", got, want)
	}
}

// wantLog compares the lines of the log since the last time; no argument: none.
func (r *rig) wantLog(want ...string) {
	r.t.Helper()
	if want == nil {
		want = []string{""}
	}
	if diff := cmp.Diff(want, r.log.take()); diff != "" {
		r.t.Errorf("log (-want +got):\n%s", diff)
	}
}

func (r *rig) ready() bool {
	select {
	case <-r.loop.Ready():
		return true
	default:
		return false
	}
}
