// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// Pinned are all pinned maps, opened to read.
type Pinned struct {
	Maps map[string]*ebpf.Map // by pin name
	// Generation is the number of the configuration that packets see.
	Generation int
}

// OpenPinned opens the shared maps and those of the configuration that packets
// see, read-only and without the lock. ErrNotRunning if there are none.
func OpenPinned(pinPath string) (*Pinned, error) {
	if err := checkLayout(pinPath); err != nil { // others have other names
		return nil, err
	}
	p := &Pinned{Maps: make(map[string]*ebpf.Map)}
	// first, as it takes the other's name when that has grown
	if err := p.openNext(pinPath); err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(sharedMaps, countMaps) {
		if err := p.open(name, filepath.Join(pinPath, name)); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	if err := p.dropGrown(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for _, name := range configMaps {
		if err := p.open(name, filepath.Join(pinPath, configLink, name)); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	var err error
	if p.Generation, err = currentGeneration(pinPath); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// openNext opens the second flow table, if there is one.
func (p *Pinned) openNext(pinPath string) error {
	err := p.open(nextMap, filepath.Join(pinPath, nextMap))
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	return err
}

// dropGrown forgets the second table if it became the first meanwhile.
func (p *Pinned) dropGrown() error {
	next := p.Maps[nextMap]
	if next == nil {
		return nil
	}
	same, err := sameMap(p.Maps[flowsMap], next)
	if err != nil || !same {
		return err
	}
	delete(p.Maps, nextMap)
	return next.Close()
}

// OpenNext opens the flow table that first grows into, or has grown into since
// it was opened, read-only; nil if there is none. The caller closes it.
func OpenNext(pinPath string, first *ebpf.Map) (*ebpf.Map, error) {
	for _, name := range []string{nextMap, flowsMap} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinPath, name), &ebpf.LoadPinOptions{ReadOnly: true})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open map %s: %w", name, err)
		}
		same, err := sameMap(first, m)
		if err == nil && !same {
			return m, nil
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (p *Pinned) open(name, pin string) error {
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open %s: %w: start `waggle run`, or name its --pin-path", pin, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("open map %s: %w", pin, err)
	}
	p.Maps[name] = m
	return nil
}

// Close releases the handles.
func (p *Pinned) Close() error {
	var errs []error
	for _, m := range p.Maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Cleanup removes what waggle put below a pin path, and the path itself if
// nothing else is in it, and returns what that was. Removing a link's pin
// detaches its program. A second time it finds nothing. ErrLocked while a
// daemon runs.
func Cleanup(pinPath string) (removed []string, err error) {
	if _, err := os.Lstat(pinPath); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := mustBeOurs(pinPath); err != nil {
		return nil, err
	}
	f, err := lock(pinPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dirs, err := formers(pinPath)
	if err != nil {
		return nil, err
	}
	for _, dir := range append(dirs, pinPath) {
		if removed, err = removeAll(dir, removed); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// removeAll removes what is ours below a directory, and the directory if then
// nothing is in it. It returns what was removed, after what was before.
func removeAll(dir string, before []string) (removed []string, err error) {
	filters, err := removeFilters(filepath.Join(dir, linksDir))
	removed = append(before, filters...)
	if err != nil {
		return removed, err
	}
	paths, err := ours(dir)
	if err != nil {
		return removed, err
	}
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove: %w", err)
		}
		removed = append(removed, p)
	}
	if err := os.Remove(dir); err == nil {
		removed = append(removed, dir)
	}
	return removed, nil
}

// mustBeOurs refuses a directory that does not look like a pin path, so that a
// mistyped flag removes nothing of others.
func mustBeOurs(pinPath string) error {
	entries, err := os.ReadDir(pinPath)
	if err != nil {
		return fmt.Errorf("read the pin path: %w", err)
	}
	for _, e := range entries {
		if e.Name() == linksDir || e.Name() == configLink || slices.Contains(sharedMaps, e.Name()) || strings.HasPrefix(e.Name(), formerPrefix) {
			return nil
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return fmt.Errorf("%s has nothing of waggle in it: name the pin path with --pin-path", pinPath)
}

// ours lists what to remove: links first, so that no program runs on half its
// maps, and directories after what is in them.
func ours(pinPath string) (paths []string, err error) {
	links, err := filepath.Glob(filepath.Join(pinPath, linksDir, "*-*gress*"))
	if err != nil {
		return nil, err
	}
	others, err := filepath.Glob(filepath.Join(pinPath, linksDir, "*-[cx]*")) // clsact, xdp
	if err != nil {
		return nil, err
	}
	paths = append(append(links, others...), filepath.Join(pinPath, linksDir))
	hooks, err := filepath.Glob(filepath.Join(pinPath, cgroupDir, "*"))
	if err != nil {
		return nil, err
	}
	paths = append(append(paths, hooks...), filepath.Join(pinPath, cgroupDir))
	for _, name := range []string{configLink, configLink + nextSuffix} {
		paths = append(paths, filepath.Join(pinPath, name))
	}
	gens, err := filepath.Glob(filepath.Join(pinPath, genPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, g := range gens {
		for _, name := range configMaps {
			paths = append(paths, filepath.Join(g, name))
		}
		paths = append(paths, g)
	}
	for _, name := range slices.Concat(sharedMaps, countPins(), onceShared, walks[:], []string{nextMap}) {
		paths = append(paths, filepath.Join(pinPath, name))
	}
	return slices.DeleteFunc(paths, func(p string) bool {
		_, err := os.Lstat(p)
		return err != nil || strings.HasSuffix(p, "/")
	}), nil
}
