// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// reported are the devices by name, without their indices.
func reported(list []Device) map[string]Device {
	out := make(map[string]Device)
	for _, d := range list {
		name := d.Name
		d.Name, d.Index = "", 0
		out[name] = d
	}
	return out
}

func (p *place) pinnedDevices() (m Method, out map[string]Device) {
	p.t.Helper()
	p.do(p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		if err != nil {
			return err
		}
		var list []Device
		m, list, err = PinnedDevices(p.pins, s.Links)
		out = reported(list)
		return err
	}))
	return m, out
}

// The daemon and the pins say the same of devices, but for what only it knows.
func TestDevicesSayWhyTheyHaveNoProgram(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		if m, list := p.pinnedDevices(); m != Auto || len(list) == 0 {
			t.Errorf("before anything: %q, %v", m, list)
		}
		device := p.lab.Clients()[0].Device
		l := p.open()
		p.publish(l)
		other, err := p.lab.AddClient()
		p.do(err)
		l.opts.Exclude = []string{other.Device}
		p.devices(l)
		off := XDP{Mode: XDPOff, Why: "--xdp off"}
		want := map[string]Device{
			"lo": {Why: "loopback", XDP: off}, device: {Ingress: true, Egress: true, XDP: off}, other.Device: {Why: "excluded by --exclude-devices", XDP: off},
		}
		if d := cmp.Diff(want, reported(l.Devices())); d != "" {
			t.Errorf("the process says (-want +got):\n%s", d)
		}
		p.do(l.Close())
		off.Why = "the process that decides does not answer"
		for name, d := range want {
			d.XDP = off
			want[name] = d
		}
		want[other.Device] = Device{Why: "excluded by --exclude-devices, or nobody came to attach them", XDP: off}
		m, got := p.pinnedDevices()
		if d := cmp.Diff(want, got); d != "" || m != p.method {
			t.Errorf("the pins say %s (-want +got):\n%s", m, d)
		}
	})
}

func TestADeviceSaysWhyItsProgramCouldNotBeAttached(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	defer l.Close()
	g := p.publish(l)
	device := p.lab.Clients()[0].Device
	p.do(g.TcEgress.Close()) // nothing can be attached by a closed handle
	err := p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		if err == nil {
			_, err = l.SetDevices(s.Links)
		}
		return err
	})
	if err == nil {
		t.Fatal("it was attached")
	}
	d := reported(l.Devices())[device]
	if !d.Ingress || d.Egress || d.Why == "" || !strings.Contains(err.Error(), d.Why) {
		t.Errorf("%+v, want ingress alone, and the reason: %v", d, errors.Unwrap(err))
	}
}
