// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// XDPMode is whether and how XDP runs on a device.
type XDPMode string

// The modes. XDPAuto is for Options alone: native where a probe finds nothing
// against it, else off.
const (
	XDPOff     XDPMode = "off"
	XDPAuto    XDPMode = "auto"
	XDPNative  XDPMode = "native"
	XDPGeneric XDPMode = "generic"
)

// XDPModes are the values of Options.XDP.
var XDPModes = []string{string(XDPAuto), string(XDPNative), string(XDPGeneric), string(XDPOff)}

// XDP is what a device has of it.
type XDP struct {
	Mode XDPMode // never XDPAuto
	// Why is the reason for the mode.
	Why string
	// Sends says that other devices' frames can be sent there natively, and Pieces
	// that these may be in several pieces.
	Sends, Pieces bool
}

const xdpSuffix = "xdp"

func xdpHook(ifindex int) hook { return hook{ifindex: ifindex, xdp: true} }

// pinnedXDP reports whether XDP is on a device by a record in dir.
func pinnedXDP(dir string) (bool, error) {
	pins, err := filepath.Glob(filepath.Join(dir, "*-"+xdpSuffix))
	return len(pins) > 0, err
}

// xdpLink attaches in one of the modes.
type xdpLink struct {
	*pinnedLink
	ifindex int
}

func attachXDP(p *ebpf.Program, at hook, pin string, mode XDPMode) (attachment, error) {
	flags := link.XDPDriverMode
	if mode == XDPGeneric {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: at.ifindex, Flags: flags})
	if err != nil {
		return nil, err
	}
	pinned, err := pinLink(l, pin)
	if err != nil {
		return nil, err
	}
	return &xdpLink{pinned, at.ifindex}, nil
}

func adoptXDP(at hook, pin string) (attachment, error) {
	l, err := adoptLink(pin)
	if err != nil {
		return nil, err
	}
	return &xdpLink{l, at.ifindex}, nil
}

// running fails when the device is gone: then the link says device 0.
func (l *xdpLink) running() (ebpf.ProgramID, bool) {
	info, err := l.Info()
	if err != nil {
		return 0, false
	}
	at := info.XDP()
	return info.Program, at != nil && int(at.Ifindex) == l.ifindex
}

// ofOnePiece makes a program one that takes frames in one piece only. In generic mode the
// kernel copies packets for the others to buffers that have lost how long the Ethernet
// header is (skb->mac_len), and programs of tc then look for it in the wrong place; for this
// one it makes them one piece.
func ofOnePiece(p *ebpf.ProgramSpec) { p.Flags &^= unix.BPF_F_XDP_HAS_FRAGS }

// explainXDP says what a failure to attach means.
func explainXDP(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "another XDP program is on it: " + takeOff
	case errors.Is(err, unix.EOPNOTSUPP):
		return "its driver has no native XDP: --xdp generic works everywhere, more slowly"
	}
	return fmt.Sprintf("its driver takes no XDP program as things are (%v): see `dmesg` for what it asks for, often an MTU of one page or fewer queues", err)
}

const takeOff = "stop who put it there, or take it off (`ip link set dev DEVICE xdp off`); a device has one"

// chooseXDP says what each device is to have. What is off by a failure to attach
// stays so until the device changes.
func (l *Loader) chooseXDP(links []nlx.Link) map[int]XDP {
	out := make(map[int]XDP, len(links))
	against := ""
	if l.opts.XDP == XDPAuto && l.opts.AgainstXDP != nil {
		against = l.opts.AgainstXDP()
	}
	for _, dev := range links {
		if !l.WantsXDP() { // nothing is asked then, of each of a node's many devices
			out[dev.Index] = XDP{Mode: XDPOff, Why: "--xdp off"}
			continue
		}
		why := cmpOr(against, func() string { return l.withoutXDP(dev, links) })
		if failed, ok := l.hooks.failed[dev.Index]; why == "" && ok && failed.mtu == dev.MTU {
			why = failed.why
		}
		switch {
		case why != "":
			out[dev.Index] = XDP{Mode: XDPOff, Why: why}
		case l.opts.XDP == XDPGeneric:
			out[dev.Index] = XDP{Mode: XDPGeneric, Why: "--xdp generic"}
		default:
			out[dev.Index] = XDP{Mode: XDPNative, Why: "nothing speaks against it"}
		}
	}
	return out
}

// planXDP adds to the hooks that devices should have. A program that is there in
// another mode than it should be is taken off: the kernel changes none.
func (l *Loader) planXDP(links []nlx.Link, want map[hook]string) {
	l.xdp = l.chooseXDP(links)
	for _, dev := range links {
		at, x := xdpHook(dev.Index), l.xdp[dev.Index]
		if l.hooks.links[at] != nil {
			l.hooks.names[at] = dev.Name
		}
		if x.Mode == XDPOff {
			continue
		}
		want[at] = dev.Name
		if l.hooks.links[at] != nil && dev.XDP.Program != 0 && dev.XDP.Generic != (x.Mode == XDPGeneric) {
			l.hooks.forget(at)
		}
	}
}

// failXDP notes that a device takes no program: the dataplane is complete without.
func (l *Loader) failXDP(at hook, err error) {
	i := slices.IndexFunc(l.links, func(dev nlx.Link) bool { return dev.Index == at.ifindex })
	l.hooks.failed[at.ifindex] = failedXDP{explainXDP(err), l.links[i].MTU}
	delete(l.hooks.names, at)
}

// cmpOr is cmp.Or that asks for the second only if the first is zero.
func cmpOr(first string, second func() string) string {
	if first != "" {
		return first
	}
	return second()
}

// withoutXDP says why a device cannot have XDP; "" if nothing is known against it.
func (l *Loader) withoutXDP(dev nlx.Link, links []nlx.Link) string {
	if why := without(dev, links, l.opts.Exclude); why != "" {
		return why
	}
	switch {
	case !dev.Ethernet:
		return "its packets have no Ethernet header"
	case dev.Master != 0:
		return "it belongs to a " + dev.MasterKind + ", which has its frames"
	case dev.Kind == "bridge":
		return "frames cross a bridge before they are its own"
	case dev.XDP.Program != 0 && l.hooks.links[xdpHook(dev.Index)] == nil:
		return fmt.Sprintf("XDP program %d is on it already: %s", dev.XDP.Program, takeOff)
	}
	if why := hidesTags(dev, links); why != "" || l.opts.XDP == XDPGeneric {
		return why
	}
	if !slices.Contains([]string{"device", "veth", "tuntap"}, dev.Kind) {
		return fmt.Sprintf("a %s gets no native XDP from waggle: --xdp generic works there", dev.Kind)
	}
	return deafPeer(dev)
}

// hidesTags says why a program would take a VLAN's frames for the device's own.
func hidesTags(dev nlx.Link, links []nlx.Link) string {
	on := slices.IndexFunc(links, func(o nlx.Link) bool { return o.Kind == "vlan" && o.Parent == dev.Index && o.PeerNamespace < 0 })
	if on < 0 {
		return ""
	}
	if dev.Kind == "veth" {
		return fmt.Sprintf("VLAN device %s is on it, and a veth hands over tags beside the frames", links[on].Name)
	}
	off, err := nlx.TakesTagsOff(dev.Name)
	if err != nil {
		return err.Error()
	}
	if off {
		return fmt.Sprintf("VLAN device %s is on it, and tags are taken off before XDP sees the frames: `ethtool -K %s rxvlan off`", links[on].Name, dev.Name)
	}
	return ""
}

// deafPeer says why a veth's other end would lose what is sent by XDP: it takes
// frames only while it has an XDP program itself. (With GRO on it does, too, but of
// another network namespace that cannot be asked.)
func deafPeer(dev nlx.Link) string {
	if dev.Kind != "veth" {
		return ""
	}
	x, err := nlx.PeerXDP(dev)
	if err != nil {
		return fmt.Sprintf("whether the other end takes frames of XDP is not known: %v", err)
	}
	if x.Program == 0 || x.Generic {
		return "the other end of the veth has no native XDP program, and without one it loses frames of XDP"
	}
	return ""
}

// settleXDP finds out what devices that have a program can do.
func (l *Loader) settleXDP(links []nlx.Link) {
	for _, dev := range links {
		x := l.xdp[dev.Index]
		if l.hooks.links[xdpHook(dev.Index)] == nil {
			if x.Mode != XDPOff { // it could not be attached
				x = XDP{Mode: XDPOff, Why: l.hooks.failed[dev.Index].why}
			}
		} else if x.Mode == XDPNative {
			x = l.features(dev, x)
		}
		l.xdp[dev.Index] = x
	}
}

// features asks what the driver can do, now that a program is there.
func (l *Loader) features(dev nlx.Link, x XDP) XDP {
	f, err := nlx.XDPFeatures(dev.Index)
	x.Sends, x.Pieces = f&nlx.Transmits != 0, f&nlx.ReceivesPieces != 0 && f&nlx.TransmitsPieces != 0
	switch {
	case errors.Is(err, nlx.ErrNoFeatures) && dev.Kind == "veth":
		x.Sends = true
	case err != nil:
		x.Why = fmt.Sprintf("nothing speaks against it, but it sends only what it received: %v", err)
	case !x.Sends:
		x.Why = "nothing speaks against it, but its driver sends only what it received"
	}
	return x
}

// XDP returns what each device has, by index, as SetDevices left it.
func (l *Loader) XDP() map[int]XDP { return l.xdp }

// WantsXDP reports whether there is to be any.
func (l *Loader) WantsXDP() bool { return l.opts.XDP != "" && l.opts.XDP != XDPOff }

// failedXDP is why a program could not be attached to a device, and the MTU that it
// had.
type failedXDP struct {
	why string
	mtu int
}
