// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Programs of another layout stay, behind ours at ingress; the command line does
// not read their maps; cleanup takes them along.
func TestAnotherLayoutIsSetAside(t *testing.T) {
	eachMethod(t, setAside)
}

func setAside(t *testing.T, p *place) {
	l := p.open()
	before := p.publish(l)
	device := p.lab.Clients()[0].Device
	p.devices(l)
	theirs := id(t, before.TcIngress)
	p.do(l.Map("meta").Put(uint32(0), bpf.LBClocks{Layout: 99}))
	p.do(l.Close())
	var le *LayoutError
	if _, err := OpenPinned(p.pins); !errors.As(err, &le) || le.Have != 99 {
		t.Errorf("open to read: %v, want a *LayoutError", err)
	}
	for range 2 { // a restart changes nothing
		l = p.open()
		if !l.HasFormer() {
			t.Fatal("nothing was set aside")
		}
		g := p.publish(l)
		p.devices(l)
		if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, g.TcIngress), theirs}) {
			t.Errorf("programs %v, want ours before %d", got, theirs)
		}
		p.do(l.Map("meta").Put(uint32(0), bpf.LBClocks{Layout: uint32(bpf.LBLimitsLAYOUT_VERSION)}))
		p.do(l.Close())
	}
	l = p.open()
	g := p.publish(l)
	p.do(l.EndFormer())
	if l.HasFormer() {
		t.Error("it is there still")
	}
	p.awaitAttached(device, id(t, g.TcIngress))
	p.do(l.Map("meta").Put(uint32(0), bpf.LBClocks{Layout: 98}))
	p.do(l.Close())
	p.do(p.open().Close()) // set aside, for the cleanup at the end
}

// A process may die while it sets pins aside: the next one goes on.
func TestSettingAsideGoesOn(t *testing.T) {
	p := newPlace(t)
	l := p.open()
	p.publish(l)
	p.do(l.Map("meta").Put(uint32(0), bpf.LBClocks{Layout: 99}))
	p.do(l.Close())
	half := filepath.Join(p.pins, "former-1")
	p.do(os.Mkdir(half, 0o700))
	p.do(os.Rename(filepath.Join(p.pins, "flows"), filepath.Join(half, "flows")))
	p.do(os.Rename(filepath.Join(p.pins, linksDir), filepath.Join(half, linksDir)))
	l = p.open()
	defer l.Close()
	for _, name := range []string{"flows", "meta", "config"} {
		if _, err := os.Lstat(filepath.Join(half, name)); err != nil {
			t.Error(err)
		}
	}
	if dirs, err := formers(p.pins); err != nil || len(dirs) != 1 {
		t.Errorf("set aside %v, %v, want one", dirs, err)
	}
}
