// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

var hookTypes = []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}

// programs returns the ids of the tcx programs of a device, in their order.
func programs(t *testing.T, ns *netlab.Namespace, device string, at ebpf.AttachType) (ids []ebpf.ProgramID) {
	t.Helper()
	index, err := ns.Ifindex(device)
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		q, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
		if err != nil {
			return err
		}
		for _, p := range q.Programs {
			ids = append(ids, p.ID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// attached returns all tcx programs on the director's devices to nodes.
func (s *scene) attached() (ids []ebpf.ProgramID) {
	s.t.Helper()
	for _, n := range append(s.Clients(), s.Servers()...) {
		for _, at := range hookTypes {
			ids = append(ids, programs(s.t, s.Director, n.Device, at)...)
		}
	}
	slices.Sort(ids)
	return ids
}

// pinned lists what is below the pin path, links of the file system not
// followed.
func (s *scene) pinned() (paths []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.pins, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return paths
}

// pinnedMaps returns what the kernel says of all pinned maps.
func (s *scene) pinnedMaps() (out []*ebpf.MapInfo) {
	s.t.Helper()
	for _, pin := range s.pinned() {
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			continue // a directory, or a link
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, info)
	}
	return out
}

// mapIDs returns the ids of all pinned maps.
func (s *scene) mapIDs() (ids []ebpf.MapID) {
	s.t.Helper()
	for _, info := range s.pinnedMaps() {
		id, ok := info.ID()
		if !ok {
			s.t.Fatalf("map %s has no id", info.Name)
		}
		ids = append(ids, id)
	}
	if len(ids) < 10 {
		s.t.Fatalf("only %d maps are pinned", len(ids))
	}
	return ids
}

func TestCleanupRefusesWhileADaemonRuns(t *testing.T) {
	s := started(t, 1, true)
	st := s.stream(vip4)
	before := s.pinned()
	out, errs, code := s.verb("cleanup")
	if code != 1 || out != "" || !strings.Contains(errs, "another waggle works on this pin path: stop it") {
		t.Errorf("exit %d, stdout %q, stderr %q; want 1, nothing, and what to do", code, out, errs)
	}
	if diff := cmp.Diff(before, s.pinned()); diff != "" {
		t.Errorf("pins (-before +after):\n%s", diff)
	}
	s.goesOn([]*stream{st})
	s.finish([]*stream{st})
}

func TestCleanupRemovesOneInstanceAndSaysWhat(t *testing.T) {
	s, other := started(t, 2, true), started(t, 1, false)
	streams := []*stream{other.stream(vip4), other.stream(vip6)}
	othersPins, othersPrograms := other.pinned(), other.attached()
	pins, progs, maps := s.pinned(), s.attached(), s.mapIDs()
	if len(progs) != 6 {
		t.Fatalf("%d programs on 3 devices, want 6", len(progs))
	}
	s.kill()
	if got := s.attached(); !slices.Equal(progs, got) {
		t.Errorf("programs %v with the daemon dead, were %v", got, progs)
	}

	var removed []string
	for line := range strings.Lines(s.must("cleanup")) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "removed ")
		if !ok {
			t.Errorf("line %q, want removed PATH", line)
		}
		removed = append(removed, path)
	}
	n := len(removed)
	removed = slices.DeleteFunc(removed, func(path string) bool { return strings.HasPrefix(path, "/run/waggle/") })
	if len(removed) != n-1 {
		t.Errorf("%d sockets were removed, want that of the daemon that was killed", n-len(removed))
	}
	slices.Sort(removed)
	slices.Sort(pins)
	if diff := cmp.Diff(pins, removed); diff != "" {
		t.Errorf("removed (-pinned +said):\n%s", diff)
	}
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", s.pins, err)
	}
	s.eventually("the programs are detached", func() error {
		if got := s.attached(); len(got) != 0 {
			return fmt.Errorf("%v are attached", got)
		}
		return nil
	})
	s.eventually("maps and programs are freed", func() error { return alive(progs, maps) })
	if out := s.must("cleanup"); out != "nothing to remove at "+s.pins+"\n" {
		t.Errorf("the second time: %q", out)
	}
	if _, errs, code := s.verb("services"); code != 1 || !strings.Contains(errs, "waggle run --services FILE") {
		t.Errorf("services afterwards: exit %d, %q; want 1 and the next step", code, errs)
	}

	other.goesOn(streams)
	if diff := cmp.Diff(othersPins, other.pinned()); diff != "" {
		t.Errorf("pins of the other instance (-before +after):\n%s", diff)
	}
	if got := other.attached(); !slices.Equal(othersPrograms, got) {
		t.Errorf("programs of the other instance %v, were %v", got, othersPrograms)
	}
	if err := other.never("nobody"); err != nil {
		t.Error(err)
	}
	other.finish(streams)
}

// alive returns an error if the kernel still has one of them.
func alive(progs []ebpf.ProgramID, maps []ebpf.MapID) error {
	for _, id := range progs {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			p.Close()
			return errors.New("a program is there")
		}
	}
	for _, id := range maps {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			m.Close()
			return errors.New("a map is there")
		}
	}
	return nil
}

func TestASecondDaemonOnThePinPathIsRefused(t *testing.T) {
	s := started(t, 1, true)
	st := s.stream(vip4)
	before, progs := s.pinned(), s.attached()
	errs := s.refused(s.rules, s.pins)
	for _, want := range []string{s.pins, "another waggle works on this pin path: stop it, or take another --pin-path"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in:\n%s", want, errs)
		}
	}
	if diff := cmp.Diff(before, s.pinned()); diff != "" {
		t.Errorf("pins (-before +after):\n%s", diff)
	}
	if got := s.attached(); !slices.Equal(progs, got) {
		t.Errorf("programs %v, were %v", got, progs)
	}
	s.goesOn([]*stream{st})
	s.finish([]*stream{st})
}
