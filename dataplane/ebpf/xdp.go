// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	"github.com/waggle-lb/waggle/loader"
)

// XDPMode is on which devices packets are sent on without the stack.
type XDPMode = loader.XDPMode

// Modes of Options.XDP; the others are for users alone.
const (
	XDPAuto = loader.XDPAuto
	XDPOff  = loader.XDPOff
)

// XDPModes are all of them.
var XDPModes = loader.XDPModes

// againstXDP is what speaks against XDP on any device.
func (o *Options) againstXDP() func() string {
	if o.Filter == nil {
		return nil
	}
	return func() string {
		who, err := o.Filter()
		switch {
		case err != nil:
			return fmt.Sprintf("whether somebody filters what is forwarded is not known: %v", err)
		case who != "":
			return who + " filters what is forwarded, and would see nothing of it: --xdp native does without"
		}
		return ""
	}
}

// noteXDP logs what devices have of XDP, once for each that it changes for.
func (d *Dataplane) noteXDP() {
	now := make(map[int]loader.XDP)
	for _, dev := range d.loader.Devices() {
		now[dev.Index] = dev.XDP
		if before, ok := d.following.xdp[dev.Index]; dev.XDP == before || !ok && !d.loader.WantsXDP() {
			continue
		}
		d.log.Info("XDP", "device", dev.Name, "mode", string(dev.XDP.Mode), "why", dev.XDP.Why)
	}
	d.following.xdp = now
}
