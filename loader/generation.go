// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	configLink = "config"
	genPrefix  = "gen-"
)

// Generation is one configuration: its own maps, the shared ones, and programs
// that use both.
type Generation struct {
	bpf.LBObjects
	// Number is N of gen-N, once it is published.
	Number int
}

// Close releases the handles.
func (g *Generation) Close() error { return g.LBObjects.Close() }

// Config are the maps of a generation that packets see, made by an earlier
// process.
type Config struct {
	Maps map[string]*ebpf.Map // by pin name
}

// Close releases the handles.
func (c *Config) Close() error {
	var errs []error
	for _, m := range c.Maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Previous opens the configuration that packets see; nil if there is none. The
// caller closes it.
func (l *Loader) Previous() (*Config, error) {
	c := &Config{Maps: make(map[string]*ebpf.Map)}
	for _, name := range configMaps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(l.opts.PinPath, configLink, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, c.Close()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open map %s of the last configuration: %w", name, err), c.Close())
		}
		c.Maps[name] = m
	}
	return c, nil
}

// NewGeneration loads the programs with empty configuration maps. Packets see
// nothing of it before Publish. The caller closes it, unless it is published.
func (l *Loader) NewGeneration() (*Generation, error) {
	g := &Generation{}
	if err := l.spec.Variables["half_open_places"].Set(l.shared["half_open"].MaxEntries()); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	err := l.spec.LoadAndAssign(&g.LBObjects, &ebpf.CollectionOptions{MapReplacements: l.shared})
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return nil, fmt.Errorf("load the programs: the kernel's verifier refused: %w (waggle needs Linux 6.1 with BTF)", ve)
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return g, nil
}

// Publish makes packets see the generation: it pins its maps, points every
// attached hook at its programs, names it as the configuration and removes the
// one before. On an error the old one stays, on some devices perhaps with the
// new programs: both forward.
func (l *Loader) Publish(g *Generation) error {
	dir, err := l.pin(g)
	if err != nil {
		return err
	}
	if err := l.hooks.swap(g); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	tmp := filepath.Join(l.opts.PinPath, configLink+"-next")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("publish: %w", err)
	}
	if err := os.Symlink(filepath.Base(dir), tmp); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(l.opts.PinPath, configLink)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	old := l.current
	l.current = g
	if old != nil {
		if err := old.Close(); err != nil {
			return fmt.Errorf("release the last configuration: %w", err)
		}
	}
	return removeUnused(l.opts.PinPath)
}

// pin pins the maps of a generation under the next free number.
func (l *Loader) pin(g *Generation) (dir string, err error) {
	n := 1
	entries, err := os.ReadDir(l.opts.PinPath)
	if err != nil {
		return "", fmt.Errorf("read the pin path: %w", err)
	}
	for _, e := range entries {
		if i, err := strconv.Atoi(strings.TrimPrefix(e.Name(), genPrefix)); err == nil && i >= n {
			n = i + 1
		}
	}
	g.Number = n
	dir = filepath.Join(l.opts.PinPath, genPrefix+strconv.Itoa(n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("pin the configuration: %w", err)
	}
	for name, m := range map[string]*ebpf.Map{
		"vips": g.Vips, "services": g.Services, "slots": g.Slots, "backends": g.Backends,
		"backend_ids": g.BackendIds, "node_addrs": g.NodeAddrs,
		"devices": g.Devices, "masq_ports": g.MasqPorts,
	} {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return "", errors.Join(fmt.Errorf("pin map %s in %s: %w", name, dir, err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// removeUnused removes generations that config does not name.
func removeUnused(pinPath string) error {
	current, err := os.Readlink(filepath.Join(pinPath, configLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", configLink, err)
	}
	dirs, err := filepath.Glob(filepath.Join(pinPath, genPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if filepath.Base(dir) == current {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unused configuration: %w", err)
		}
	}
	return nil
}
