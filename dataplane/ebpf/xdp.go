// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"strings"

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

// noteXDP logs what devices have of XDP, when it changes for them: a line for those that
// have the same.
func (d *Dataplane) noteXDP() {
	now, changed := make(map[int]loader.XDP), make(map[loader.XDP][]string)
	for _, dev := range d.loader.Devices() {
		now[dev.Index] = dev.XDP
		if before, ok := d.following.xdp[dev.Index]; dev.XDP == before || !ok && !d.loader.WantsXDP() {
			continue
		}
		changed[dev.XDP] = append(changed[dev.XDP], dev.Name)
	}
	for x, devices := range changed {
		d.log.Info("XDP", "mode", string(x.Mode), "why", x.Why, "devices", strings.Join(devices, " "))
	}
	d.following.xdp = now
}
