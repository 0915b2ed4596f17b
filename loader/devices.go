// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// Device is a network device and which programs are on it.
type Device struct {
	Name            string
	Index           int
	Ingress, Egress bool
	// Why says why one is missing; empty if both are there.
	Why string
	XDP XDP
}

// Method returns how programs are attached, never Auto, and why so.
func (l *Loader) Method() (m Method, why string) { return l.hooks.method, l.hooks.why }

// Devices returns the devices that SetDevices was called with last.
func (l *Loader) Devices() []Device {
	out := make([]Device, 0, len(l.links))
	for _, link := range l.links {
		ingress, egress := hooksOf(link)
		d := Device{
			Name: link.Name, Index: link.Index, Ingress: l.hooks.links[ingress] != nil, Egress: l.hooks.links[egress] != nil,
			Why: without(link, l.links, l.opts.Exclude), XDP: l.xdp[link.Index],
		}
		if err := errors.Join(l.hooks.refused[ingress], l.hooks.refused[egress]); err != nil {
			d.Why = err.Error()
		}
		out = append(out, d)
	}
	return out
}

// PinnedDevices says which of the devices have programs, by the pins alone, and
// how these are attached: Auto if none is. What was excluded is not known
// without the process that did.
func PinnedDevices(pinPath string, links []nlx.Link) (m Method, out []Device, err error) {
	m, on, err := pinnedHooks(filepath.Join(pinPath, linksDir))
	if err != nil {
		return m, nil, err
	}
	for _, link := range links {
		ingress, egress := hooksOf(link)
		d := Device{Name: link.Name, Index: link.Index, Ingress: on[ingress], Egress: on[egress], XDP: pinnedXDPOf(link, on)}
		if !d.Ingress || !d.Egress {
			d.Why = without(link, links, nil)
			if d.Why == "" {
				d.Why = "excluded by --exclude-devices, or nobody came to attach them"
			}
		}
		out = append(out, d)
	}
	return m, out, nil
}

// pinnedHooks are the places where a program is that is recorded in dir.
func pinnedHooks(dir string) (m Method, on map[hook]bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, nil, fmt.Errorf("read the pinned links: %w", err)
	}
	c := newClsact(dir)
	defer c.close()
	on = make(map[hook]bool)
	for _, e := range entries {
		at, ok := parsePin(e.Name())
		if !ok {
			continue
		}
		a, err := c.adoptAny(at, filepath.Join(dir, e.Name()), e)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its device went this moment
		}
		if err != nil {
			return m, nil, fmt.Errorf("open %s: %w", filepath.Join(dir, e.Name()), err)
		}
		if at.xdp {
			// says nothing of the others
		} else if m = TCX; e.Type() == fs.ModeSymlink {
			m = Clsact
		}
		_, on[at] = a.running()
		if err := a.Close(); err != nil {
			return m, nil, err
		}
	}
	return m, on, nil
}

// pinnedXDPOf is what a device has of XDP, by the pins and the device alone.
func pinnedXDPOf(dev nlx.Link, on map[hook]bool) XDP {
	switch {
	case !on[xdpHook(dev.Index)]:
		return XDP{Mode: XDPOff, Why: "the process that decides does not answer"}
	case dev.XDP.Generic:
		return XDP{Mode: XDPGeneric, Why: "its link is pinned"}
	}
	return XDP{Mode: XDPNative, Why: "its link is pinned"}
}
