// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/nlx"
)

// place is a pin path and a network namespace of a test's own.
type place struct {
	t      *testing.T
	lab    *netlab.Lab
	pins   string
	method Method
	xdp    XDPMode
	// against says why there should be no XDP; nil: nothing.
	against func() string
}

// eachMethod runs a test with every method that the kernel has.
func eachMethod(t *testing.T, test func(t *testing.T, p *place)) {
	methods := []Method{Clsact}
	if haveTCX() {
		methods = append(methods, TCX)
	}
	for _, m := range methods {
		t.Run(string(m), func(t *testing.T) {
			p := newPlace(t)
			p.method = m
			test(t, p)
		})
	}
}

func newPlace(t *testing.T) *place {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "loader", Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(strings.ToLower(filepath.Base(t.TempDir())+t.Name()), "/", "-")
	p := &place{t: t, lab: lab, pins: fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-%s", os.Getpid(), name)}
	t.Cleanup(func() {
		if _, err := Cleanup(p.pins); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.pins); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cleanup left %s", p.pins)
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *place) do(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// spec has maps that are quickly made, and programs that are quickly verified.
func (p *place) spec() *ebpf.CollectionSpec {
	p.t.Helper()
	spec, err := bpf.LoadLB()
	p.do(err)
	for _, name := range []string{"flows", "direct", "fragments", "slots", "backends", "load", "services", "vips"} {
		spec.Maps[name].MaxEntries = 1024 // less to make and free
	}
	for _, prog := range spec.Programs {
		// what they do with packets is for others to test, and the verifier needs long
		switch prog.Type {
		case ebpf.SchedCLS:
			prog.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}
		case ebpf.CGroupSockAddr, ebpf.CGroupSock:
			prog.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
		case ebpf.XDP:
			prog.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}
		}
	}
	return spec
}

func (p *place) open() *Loader {
	p.t.Helper()
	l, err := Open(Options{PinPath: p.pins, Log: slog.New(slog.DiscardHandler), Attach: p.method, XDP: p.xdp, AgainstXDP: p.against, Spec: p.spec()})
	p.do(err)
	return l
}

func (p *place) publish(l *Loader) *Generation {
	p.t.Helper()
	g, err := l.NewGeneration(nil)
	p.do(err)
	old, err := l.Publish(g)
	p.do(err)
	if old != nil {
		p.do(old.Close())
	}
	return g
}

// devices brings the programs to the devices of the director.
func (p *place) devices(l *Loader) (changes []Change) {
	p.t.Helper()
	p.do(p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		if err != nil {
			return err
		}
		changes, err = l.SetDevices(s.Links)
		return err
	}))
	return changes
}

// attached lists the ids of the programs at a device's ingress, in the order
// that packets meet them.
func (p *place) attached(device string) (ids []ebpf.ProgramID) {
	p.t.Helper()
	index, err := p.lab.Director.Ifindex(device)
	p.do(err)
	p.do(p.lab.Director.Do(func() error {
		list, err := filters(index, false)
		for _, f := range list {
			ids = append(ids, ebpf.ProgramID(f.Program))
		}
		return err
	}))
	if !haveTCX() {
		return ids
	}
	p.do(p.lab.Director.Do(func() error {
		r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		for _, pr := range r.Programs {
			ids = append(ids, pr.ID)
		}
		return nil
	}))
	return ids
}

// awaitAttached waits until a device has these programs at ingress: the kernel detaches
// a link that has lost its pin a moment later.
func (p *place) awaitAttached(device string, want ...ebpf.ProgramID) {
	p.t.Helper()
	got := p.attached(device)
	for deadline := time.Now().Add(20 * time.Second); !slices.Equal(got, want); got = p.attached(device) {
		if time.Now().After(deadline) {
			p.t.Fatalf("programs %v, want %v", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func id(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	n, _ := info.ID()
	return n
}

func TestANewProcessTakesOverLinksAndFlows(t *testing.T) {
	eachMethod(t, takesOver)
}

func takesOver(t *testing.T, p *place) {
	device := p.lab.Clients()[0].Device
	l := p.open()
	first := p.publish(l)
	if c := p.devices(l); len(c) != 2 {
		t.Errorf("attached %v, want ingress and egress of one device", c)
	}
	p.do(first.Flows.Put(bpf.LBFlowKey{Proto: 6}, bpf.LBFlow{Port: 7}))
	p.do(first.Vips.Put(bpf.LBVipKey{Port: 1}, bpf.LBVip{Service: 5}))
	before := p.attached(device)
	p.do(l.Close())
	if got := p.attached(device); !slices.Equal(got, before) {
		t.Fatalf("programs %v after the process, want %v", got, before)
	}

	l = p.open()
	defer l.Close()
	prev, err := l.Previous()
	p.do(err)
	var v bpf.LBVip
	p.do(prev.Maps["vips"].Lookup(bpf.LBVipKey{Port: 1}, &v))
	if v.Service != 5 {
		t.Errorf("the last configuration says %+v", v)
	}
	p.do(prev.Close())
	second := p.publish(l)
	if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, second.TcIngress)}) {
		t.Errorf("programs %v, want only the new one", got)
	}
	var f bpf.LBFlow
	if err := second.Flows.Lookup(bpf.LBFlowKey{Proto: 6}, &f); err != nil || f.Port != 7 {
		t.Errorf("flow %+v, %v", f, err)
	}
	if err := second.Vips.Lookup(bpf.LBVipKey{Port: 1}, &v); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("the new configuration has the old one's entries: %v", err)
	}
	if c := p.devices(l); len(c) != 0 {
		t.Errorf("changes %v, want none", c)
	}
	gens, _ := filepath.Glob(filepath.Join(p.pins, "gen-*"))
	if len(gens) != 1 {
		t.Errorf("configurations %v, want one", gens)
	}
}

func TestAHalfBuiltConfigurationIsRemoved(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	p.publish(l)
	p.do(l.Close())
	half := filepath.Join(p.pins, "gen-77")
	p.do(os.Mkdir(half, 0o700))
	l = p.open()
	defer l.Close()
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	prev, err := l.Previous()
	p.do(err)
	if prev == nil {
		t.Fatal("the complete one is gone")
	}
	p.do(prev.Close())
}

func TestTheSecondDaemonIsRefused(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	defer l.Close()
	if _, err := Open(Options{PinPath: p.pins, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrLocked) {
		t.Errorf("open: %v, want ErrLocked", err)
	}
	if _, err := Cleanup(p.pins); !errors.Is(err, ErrLocked) {
		t.Errorf("cleanup: %v, want ErrLocked", err)
	}
}

func TestDevicesComeAndGo(t *testing.T) {
	eachMethod(t, comeAndGo)
}

func comeAndGo(t *testing.T, p *place) {
	l := p.open()
	defer l.Close()
	p.publish(l)
	p.devices(l)
	c, err := p.lab.AddClient()
	p.do(err)
	if got := p.devices(l); len(got) != 2 || !got[0].Attached || got[0].Device != c.Device {
		t.Errorf("changes %+v, want both hooks of %s attached", got, c.Device)
	}
	p.do(p.lab.Director.DelDevice(c.Device))
	if got := p.devices(l); len(got) != 2 || got[0].Attached {
		t.Errorf("changes %+v, want both hooks of %s detached", got, c.Device)
	}
	if pins, _ := filepath.Glob(filepath.Join(p.pins, linksDir, "*gress")); len(pins) != 2 {
		t.Errorf("%d links pinned, want those of the first device", len(pins))
	}
	if pins, _ := filepath.Glob(filepath.Join(p.pins, linksDir, "*-clsact")); p.method == Clsact && len(pins) != 1 {
		t.Errorf("%d qdiscs recorded, want that of the first device", len(pins))
	}
}

func TestForeignProgramsStayAndComeAfterOursAtIngress(t *testing.T) {
	eachMethod(t, foreignStay)
}

func foreignStay(t *testing.T, p *place) {
	device := p.lab.Clients()[0].Device
	foreign, err := ebpf.NewCollection(mustSpec(t))
	p.do(err)
	defer foreign.Close()
	prog := foreign.Programs["tc_ingress"]
	index, err := p.lab.Director.Ifindex(device)
	p.do(err)
	p.do(p.lab.Director.Do(func() error {
		if p.method == Clsact {
			return addForeign(index, prog)
		}
		fl, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			t.Cleanup(func() { fl.Close() })
		}
		return err
	}))
	l := p.open()
	g := p.publish(l)
	p.devices(l)
	want := []ebpf.ProgramID{id(t, g.TcIngress), id(t, prog)}
	if got := p.attached(device); !slices.Equal(got, want) {
		t.Errorf("programs %v, want ours before the other: %v", got, want)
	}
	p.do(l.Close())
	removed, err := Cleanup(p.pins)
	p.do(err)
	if len(removed) == 0 {
		t.Error("nothing was removed")
	}
	p.awaitAttached(device, want[1:]...)
	if removed, err = Cleanup(p.pins); err != nil || len(removed) != 0 {
		t.Errorf("the second time: %v, %v", removed, err)
	}
}

func mustSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := bpf.LoadLB()
	if err == nil {
		err = bpf.Choose(spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestCleanupRefusesWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Cleanup(dir); err == nil {
		t.Error("it was taken for a pin path")
	}
}

func TestNothingPinnedIsNotRunning(t *testing.T) {
	if _, err := OpenPinned("/sys/fs/bpf/waggle-test-nothing"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}
