// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/nlx"
)

// runs puts a program of another's on a device, which passes everything, and returns
// its id and what takes it off.
func (p *place) runs(n *netlab.Namespace, device string, flags link.XDPAttachFlags) (ebpf.ProgramID, func()) {
	p.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, License: "GPL"})
	p.do(err)
	defer prog.Close()
	index, err := n.Ifindex(device)
	p.do(err)
	var l link.Link
	p.do(n.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: flags})
		return err
	}))
	p.t.Cleanup(func() { l.Close() })
	return id(p.t, prog), func() { l.Close() }
}

// hears lets the other end of the first device take frames of XDP.
func (p *place) hears() {
	p.runs(p.lab.Clients()[0].Namespace, "eth0", link.XDPDriverMode)
}

// wantXDP compares what the first device has.
func (p *place) wantXDP(l *Loader, mode XDPMode, why string) {
	p.t.Helper()
	device := p.lab.Clients()[0].Device
	for _, d := range l.Devices() {
		if d.Name != device {
			continue
		}
		if d.XDP.Mode != mode || !strings.Contains(d.XDP.Why, why) {
			p.t.Errorf("XDP is %s as %q, want %s as %q", d.XDP.Mode, d.XDP.Why, mode, why)
		}
		dev := p.link()
		if on := dev.XDP.Program != 0 && dev.XDP.Generic == (mode == XDPGeneric); on != (mode != XDPOff) && why != "already" {
			p.t.Errorf("the device has %+v, want it to be %s", dev.XDP, mode)
		}
		return
	}
	p.t.Errorf("no device %s", device)
}

// link is the first device.
func (p *place) link() (out nlx.Link) {
	p.t.Helper()
	p.do(p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		for _, l := range s.Links {
			if l.Name == p.lab.Clients()[0].Device {
				out = l
			}
		}
		return err
	}))
	return out
}

func TestXDPIsNativeWhereTheOtherEndTakesItsFrames(t *testing.T) {
	p := newPlace(t)
	p.xdp = XDPAuto
	l := p.open()
	defer func() { p.do(l.Close()) }()
	p.publish(l)
	p.devices(l)
	p.wantXDP(l, XDPOff, "loses frames")
	p.hears()
	if c := p.devices(l); len(c) != 1 || c[0].Hook != "xdp" || !c[0].Attached {
		t.Errorf("changes %+v, want XDP attached", c)
	}
	p.wantXDP(l, XDPNative, "nothing speaks against it")
	var told error // before Linux 6.3 of pieces nothing is known
	p.do(p.lab.Director.Do(func() error {
		_, told = nlx.XDPFeatures(p.link().Index)
		return nil
	}))
	if x := l.XDP()[p.link().Index]; !x.Sends || x.Pieces == errors.Is(told, nlx.ErrNoFeatures) {
		t.Errorf("%+v, want a device that sends others' frames, in pieces too", x)
	}
}

func TestXDPOutlivesTheProcess(t *testing.T) {
	p := newPlace(t)
	p.hears()
	p.xdp = XDPNative
	l := p.open()
	p.publish(l)
	p.devices(l)
	before := p.link().XDP.Program
	p.do(l.Close())
	if got := p.link().XDP.Program; got == 0 || got != before {
		t.Fatalf("program %d after the process, want %d", got, before)
	}
	l = p.open()
	g := p.publish(l)
	if got := p.link().XDP.Program; got != uint32(id(t, g.XdpIngress)) {
		t.Errorf("program %d, want the new one, %d", got, id(t, g.XdpIngress))
	}
	if c := p.devices(l); len(c) != 0 {
		t.Errorf("changes %+v, want none", c)
	}
	p.wantXDP(l, XDPNative, "")
	p.do(p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		if err != nil {
			return err
		}
		_, list, err := PinnedDevices(p.pins, s.Links)
		for _, d := range list {
			if d.Name == p.link().Name && d.XDP.Mode != XDPNative {
				t.Errorf("the pins say %+v", d.XDP)
			}
		}
		return err
	}))
	p.do(l.Close())

	// another mode, another attachment
	for _, mode := range []XDPMode{XDPGeneric, XDPNative, XDPOff} {
		p.xdp = mode
		l = p.open()
		p.publish(l)
		p.devices(l)
		p.wantXDP(l, mode, "")
		if pins, _ := filepath.Glob(filepath.Join(p.pins, linksDir, "*-xdp")); len(pins) != 0 && mode == XDPOff {
			t.Errorf("pins %v are left", pins)
		}
		p.do(l.Close())
	}
}

func TestCleanupTakesXDPOff(t *testing.T) {
	p := newPlace(t)
	p.hears()
	p.xdp = XDPNative
	l := p.open()
	p.publish(l)
	p.devices(l)
	p.do(l.Close())
	_, err := Cleanup(p.pins)
	p.do(err)
	for deadline := time.Now().Add(20 * time.Second); p.link().XDP.Program != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) { // the kernel takes it off a moment after the pin is gone
			t.Fatalf("program %d is on the device after cleanup", p.link().XDP.Program)
		}
	}
	if _, err := os.Stat(p.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cleanup left %s", p.pins)
	}
}

// Another's program stays, and the reason names it; once it is gone ours comes.
func TestAnothersXDPProgramIsRespected(t *testing.T) {
	for _, flags := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		for _, mode := range []XDPMode{XDPNative, XDPGeneric, XDPAuto} {
			p := newPlace(t)
			p.hears()
			p.xdp = mode
			other, off := p.runs(p.lab.Director, p.lab.Clients()[0].Device, flags)
			l := p.open()
			p.publish(l)
			p.devices(l)
			p.wantXDP(l, XDPOff, "already")
			p.wantXDP(l, XDPOff, "already")
			if why := l.XDP()[p.link().Index].Why; !strings.Contains(why, fmt.Sprintf("XDP program %d is on it", other)) || !strings.Contains(why, "xdp off") {
				t.Errorf("why: %q, want the program's id and what to do", why)
			}
			if got := p.link().XDP.Program; got != uint32(other) {
				t.Errorf("program %d, want the other's, %d", got, other)
			}
			off()
			p.devices(l)
			want := XDPNative
			if mode == XDPGeneric {
				want = XDPGeneric
			}
			p.wantXDP(l, want, "")
			p.do(l.Close())
		}
	}
}

func TestXDPIsRefusedWithTheReason(t *testing.T) {
	add := func(l netlink.Link) func(*place) error {
		return func(p *place) error { return p.lab.Director.Netlink().LinkAdd(l) }
	}
	attrs := func(name string, parent int) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.ParentIndex = name, parent
		return a
	}
	for _, tc := range []struct {
		name string
		mode XDPMode
		make func(*place) error
		why  string
	}{
		{"a bridge has it", XDPNative, func(p *place) error {
			if err := add(&netlink.Bridge{LinkAttrs: attrs("br0", 0)})(p); err != nil {
				return err
			}
			h := p.lab.Director.Netlink()
			br, err := h.LinkByName("br0")
			if err != nil {
				return err
			}
			dev, err := h.LinkByName(p.lab.Clients()[0].Device)
			if err != nil {
				return err
			}
			return h.LinkSetMaster(dev, br)
		}, "belongs to a bridge"},
		{"somebody filters", XDPAuto, func(p *place) error {
			p.against = func() string { return "table inet filter has rules" }
			return nil
		}, "table inet filter"},
		{"it is off", XDPOff, func(*place) error { return nil }, "--xdp off"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlace(t)
			p.hears()
			p.xdp = tc.mode
			p.do(tc.make(p))
			l := p.open()
			p.publish(l)
			p.devices(l)
			p.wantXDP(l, XDPOff, tc.why)
			for _, d := range l.Devices() {
				if d.Name == "lo" && tc.mode != XDPOff && tc.mode != XDPAuto && d.XDP.Why != "loopback" {
					t.Errorf("lo is %+v", d.XDP)
				}
			}
			p.do(l.Close())
		})
	}
}

// A program would take a VLAN's frames for the device's own where it sees no tags.
func TestXDPIsRefusedWhereItSeesNoTags(t *testing.T) {
	p := newPlace(t)
	dev := p.link()
	vlan := nlx.Link{Index: 99, Name: "v7", Kind: "vlan", Parent: dev.Index, PeerNamespace: -1}
	elsewhere := vlan
	elsewhere.PeerNamespace = 0
	hidden := func(dev nlx.Link, links ...nlx.Link) (why string) {
		p.do(p.lab.Director.Do(func() error {
			why = hidesTags(dev, links)
			return nil
		}))
		return why
	}
	if why := hidden(dev, dev, vlan); !strings.Contains(why, "VLAN device v7 is on it, and a veth") {
		t.Errorf("a veth: %q", why)
	}
	if why := hidden(dev, dev, elsewhere); why != "" {
		t.Errorf("a VLAN of another namespace's device: %q", why)
	}
	dev.Kind = "device" // as of hardware, with the offload of the one there is
	for _, on := range []bool{true, false} {
		p.do(p.lab.Director.SetVLANOffload(dev.Name, on))
		if why := hidden(dev, dev, vlan); (why != "") != on || on && !strings.Contains(why, "ethtool -K "+dev.Name+" rxvlan off") {
			t.Errorf("offload %v: %q", on, why)
		}
	}
}
