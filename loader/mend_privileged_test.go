// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// serving is a place where programs are on the only device.
func (p *place) serving() (l *Loader, g *Generation, device string) {
	p.t.Helper()
	l = p.open()
	p.t.Cleanup(func() { p.do(l.Close()) })
	g = p.publish(l)
	p.devices(l)
	return l, g, p.lab.Clients()[0].Device
}

// everything lists what is pinned: maps and links by their ids, symbolic links
// by what they say.
func (p *place) everything() map[string]string {
	p.t.Helper()
	out := make(map[string]string)
	p.do(filepath.WalkDir(p.pins, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		out[path] = p.identify(path, e)
		return nil
	}))
	return out
}

func (p *place) identify(path string, e fs.DirEntry) string {
	p.t.Helper()
	switch {
	case e.IsDir():
		st, err := os.Stat(path)
		p.do(err)
		return st.Mode().String()
	case e.Type() == fs.ModeSymlink:
		text, err := os.Readlink(path)
		p.do(err)
		return text
	}
	if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
		defer m.Close()
		info, err := m.Info()
		p.do(err)
		n, _ := info.ID()
		return fmt.Sprintf("map %d", n)
	}
	pinned, err := link.LoadPinnedLink(path, nil)
	p.do(err)
	defer pinned.Close()
	info, err := pinned.Info()
	p.do(err)
	return fmt.Sprintf("link %d", info.ID)
}

func (p *place) removeAll(path string) { p.t.Helper(); p.do(os.RemoveAll(path)) }

func TestPinsThatSomebodyRemovedComeBack(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		l, g, device := p.serving()
		before := p.everything()
		gen := fmt.Sprintf("gen-%d", g.Number)
		links, err := filepath.Glob(filepath.Join(p.pins, linksDir, "*"))
		p.do(err)
		for _, tc := range []struct {
			what string
			gone []string // paths below the pin path, all of them
			n    int      // pins that are in them
		}{
			{"nothing", nil, 0},
			{"a shared map", []string{"flows"}, 1},
			{"a map of the configuration", []string{gen + "/vips"}, 1},
			{"the configuration's name", []string{configLink}, 1},
			{"the configuration", []string{gen}, len(g.config())},
			{"the walk over sockets", []string{l.walker.Name}, 1},
			{"a program's record", []string{linksDir + "/" + filepath.Base(links[0])}, 1},
			{"all records", []string{linksDir}, len(links)},
			{"several", []string{"flows", gen, configLink}, 2 + len(g.config())},
			{"everything", []string{""}, len(sharedMaps) + len(countMaps) + len(g.config()) + 1 + len(links) + 1},
		} {
			for _, path := range tc.gone {
				p.removeAll(filepath.Join(p.pins, path))
			}
			got, err := l.Repin()
			if err != nil || len(got) != tc.n {
				t.Errorf("%s: %d pins came back, %v, want %d: %v", tc.what, len(got), err, tc.n, got)
			}
			if d := cmp.Diff(before, p.everything()); d != "" {
				t.Errorf("%s: pins (-before +after):\n%s", tc.what, d)
			}
			if again, err := l.Repin(); err != nil || len(again) > 0 {
				t.Errorf("%s: the second time %v, %v", tc.what, again, err)
			}
			if _, err := Open(Options{PinPath: p.pins, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrLocked) {
				t.Errorf("%s: another process: %v, want ErrLocked", tc.what, err)
			}
			if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, g.TcIngress)}) {
				t.Errorf("%s: programs %v, want ours", tc.what, got)
			}
		}
	})
}

// What came back serves the next process as what was there.
func TestTheNextProcessTakesOverPinsThatCameBack(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		l := p.open()
		first := p.publish(l)
		p.devices(l)
		device := p.lab.Clients()[0].Device
		p.removeAll(p.pins)
		_, err := l.Repin()
		p.do(err)
		want := []ebpf.ProgramID{id(t, first.TcIngress)}
		p.do(l.Close())
		if got := p.attached(device); !slices.Equal(got, want) {
			t.Fatalf("programs %v after the process, want %v", got, want)
		}
		l = p.open()
		defer l.Close()
		second := p.publish(l)
		if c := p.devices(l); len(c) != 0 {
			t.Errorf("changes %+v, want none", c)
		}
		if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, second.TcIngress)}) {
			t.Errorf("programs %v, want the new one alone", got)
		}
	})
}

func TestWhatStandsInPlaceOfAPinIsLeft(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		l, g, _ := p.serving()
		links, err := filepath.Glob(filepath.Join(p.pins, linksDir, "*-egress"))
		p.do(err)
		stranger, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		p.do(err)
		defer stranger.Close()
		places := []string{filepath.Join(p.pins, "flows"), filepath.Join(p.pins, fmt.Sprintf("gen-%d", g.Number), "vips"), links[0], filepath.Join(p.pins, configLink)}
		for _, path := range places {
			p.removeAll(path)
			if filepath.Base(path) == configLink {
				p.do(os.Symlink("elsewhere", path))
			} else {
				c, err := stranger.Clone()
				p.do(err)
				p.do(c.Pin(path))
				p.do(c.Close())
			}
		}
		p.removeAll(filepath.Join(p.pins, "drops"))
		strange := p.everything()
		got, err := l.Repin()
		for _, path := range places {
			if err == nil || !strings.Contains(err.Error(), path+", in place of a pin: remove it") {
				t.Errorf("error %v, want a word on %s", err, path)
			}
		}
		if !slices.Equal(got, []string{filepath.Join(p.pins, "drops")}) {
			t.Errorf("%v came back, want drops alone", got)
		}
		after := p.everything()
		delete(after, filepath.Join(p.pins, "drops"))
		if d := cmp.Diff(strange, after); d != "" {
			t.Errorf("pins (-before +after):\n%s", d)
		}
		for _, path := range places {
			p.removeAll(path)
		}
		if got, err := l.Repin(); err != nil || len(got) != len(places) {
			t.Errorf("with the strangers gone: %v, %v, want %d pins", got, err, len(places))
		}
	})
}

// takeAway detaches our ingress program from a device, as others may.
func (p *place) takeAway(device string) {
	p.t.Helper()
	if p.method == Clsact {
		p.do(p.lab.Director.Run(exec.Command("tc", "filter", "del", "dev", device, "ingress")))
		return
	}
	index, err := p.lab.Director.Ifindex(device)
	p.do(err)
	pinned, err := link.LoadPinnedLink(filepath.Join(p.pins, linksDir, pinOf(hook{ifindex: index})), nil)
	p.do(err)
	p.do(pinned.(interface{ Detach() error }).Detach())
	p.do(pinned.Close())
}

func TestAProgramThatSomebodyDetachedComesBack(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		l, g, device := p.serving()
		p.takeAway(device)
		if got := p.attached(device); len(got) != 0 {
			t.Fatalf("programs %v, want none", got)
		}
		want := []Change{{Device: device, Hook: "ingress", Attached: true, Mended: Program}}
		if d := cmp.Diff(want, p.devices(l)); d != "" {
			t.Errorf("changes (-want +got):\n%s", d)
		}
		if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, g.TcIngress)}) {
			t.Errorf("programs %v, want ours", got)
		}
		if c := p.devices(l); len(c) > 0 {
			t.Errorf("the second time: %+v", c)
		}
		if pins, err := l.Repin(); err != nil || len(pins) > 0 {
			t.Errorf("pins %v, %v: want all there", pins, err)
		}
	})
}

// What could not be put back at once is said to be mended when it is.
func TestAQdiscThatSomebodyFlushedComesBack(t *testing.T) {
	p, index := clsactPlace(t)
	l, g, device := p.serving()
	tc := func(args ...string) { t.Helper(); p.do(p.lab.Director.Run(exec.Command("tc", args...))) }
	for _, blocked := range []bool{false, true} {
		tc("qdisc", "del", "dev", device, "clsact")
		if blocked {
			tc("qdisc", "add", "dev", device, "ingress")
			err := p.lab.Director.Do(func() error {
				s, err := nlx.Read()
				if err == nil {
					_, err = l.SetDevices(s.Links)
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "ingress qdisc") {
				t.Errorf("error %v, want one about the qdisc", err)
			}
			tc("qdisc", "del", "dev", device, "ingress")
		}
		changes := p.devices(l)
		mended := slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Mended != Qdisc || !c.Attached })
		if len(changes) != 2 || len(mended) != 1 {
			t.Errorf("changes %+v, want both hooks attached, and one that says why", changes)
		}
		if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, g.TcIngress)}) || !p.hasQdisc(index) {
			t.Errorf("programs %v, want ours", got)
		}
	}
}

func TestAProgramInThePlaceOfOursIsReported(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		l, g, device := p.serving()
		counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		p.do(err)
		defer counter.Close()
		foreign := counting(t, counter)
		index, err := p.lab.Director.Ifindex(device)
		p.do(err)
		replace := func(prog *ebpf.Program) { p.do(l.hooks.links[hook{ifindex: index}].update(prog)) }
		replace(foreign)
		set := func() error {
			return p.lab.Director.Do(func() error {
				s, err := nlx.Read()
				if err != nil {
					return err
				}
				changes, err := l.SetDevices(s.Links)
				if len(changes) > 0 {
					t.Errorf("changes %+v, want none", changes)
				}
				return err
			})
		}
		for range 2 {
			err := set()
			for _, want := range []string{"in the place of waggle's", device, fmt.Sprint(uint32(id(t, foreign)))} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
			if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, foreign)}) {
				t.Errorf("programs %v, want the other's", got)
			}
		}
		replace(g.TcIngress)
		p.do(set())
	})
}

// Without bpffs nothing can be pinned; when it is back all is.
func TestUnmountedBPFFSIsAnErrorUntilItIsBack(t *testing.T) {
	p := newPlace(t)
	dir := t.TempDir()
	mount := func() { t.Helper(); p.do(unix.Mount("bpf", dir, "bpf", 0, "mode=0700")) }
	mount()
	defer func() { p.do(unix.Unmount(dir, unix.MNT_DETACH)) }()
	p.pins = filepath.Join(dir, "waggle")
	l, g, device := p.serving()
	p.do(unix.Unmount(dir, unix.MNT_DETACH))
	if _, err := l.Repin(); err == nil || !strings.Contains(err.Error(), "mount -t bpf bpf "+dir) {
		t.Errorf("error %v, want one that says how to mount it", err)
	}
	if got := p.attached(device); !slices.Equal(got, []ebpf.ProgramID{id(t, g.TcIngress)}) {
		t.Errorf("programs %v, want ours: the process holds them", got)
	}
	mount()
	if pins, err := l.Repin(); err != nil || len(pins) < len(sharedMaps)+len(configMaps) {
		t.Errorf("with bpffs back: %v, %v", pins, err)
	}
	prev, err := l.Previous()
	p.do(err)
	p.do(prev.Close())
}
