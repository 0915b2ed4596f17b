// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

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
	// Former and Carried are set if Load is to get the counts of the one before,
	// which was smaller: that one, and a map of its size for what was carried.
	Former, Carried *ebpf.Map
	// Number is N of gen-N, once it is published.
	Number int

	data, bss *ebpf.Map // the variables
	// loading is the kernel's verifier at work, whose programs are to replace the
	// first ones, or loadErr why not; nil: they are there.
	loading  *sync.WaitGroup
	programs bpf.LBPrograms
	loadErr  error
	// growing says that the programs know two flow tables.
	growing bool
}

// Close releases the handles.
func (g *Generation) Close() error {
	err := g.await()
	if errors.Is(err, g.loadErr) {
		err = nil // it was told
	}
	return errors.Join(err, g.LBObjects.Close(), g.data.Close(), g.bss.Close(), g.Former.Close(), g.Carried.Close())
}

// own returns what no other generation has, by name: its configuration, its
// variables, and what its programs work with.
func (g *Generation) own() map[string]*ebpf.Map {
	out := map[string]*ebpf.Map{
		".data": g.data, ".bss": g.bss, "works": g.Works, "ways": g.Ways, "parcels": g.Parcels, "buckets": g.Buckets, "quotes": g.Quotes,
		"piece_keys": g.PieceKeys, "piece_flows": g.PieceFlows,
	}
	maps.Copy(out, g.config())
	return out
}

// config are the configuration maps by pin name.
func (g *Generation) config() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		"vip_bits": g.VipBits, "peer_bits": g.PeerBits, "backend_bits": g.BackendBits, "masq_bits": g.MasqBits, "node_port_bits": g.NodePortBits, "vips": g.Vips, "services": g.Services, "service_info": g.ServiceInfo, "slots": g.Slots, "backends": g.Backends,
		"backend_ids": g.BackendIds, "node_addrs": g.NodeAddrs, "prefixes": g.Prefixes, "source_ranges": g.SourceRanges, "service_ranges": g.ServiceRanges, "devices": g.Devices, "masq_ports": g.MasqPorts,
	}
}

// Config are the maps of a generation that is published.
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

// Previous opens the configuration that is published, by whatever process; nil
// if there is none. The caller closes it.
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

// NewGeneration makes empty configuration maps of these sizes, in elements by name;
// others have what is compiled in, the bitmaps what vips and backends need, and stats
// what load does. What has the size of load has at least that of the load there is. The
// programs are loaded meanwhile: until Publish, which waits for them, there is but
// Clock. Packets see nothing of it before Publish. The caller closes it, unless it is
// published.
func (l *Loader) NewGeneration(sizes map[string]uint32) (*Generation, error) {
	g := &Generation{growing: l.Growing()}
	spec := l.spec.Copy()
	for name, n := range sizes {
		spec.Maps[name].MaxEntries = n
	}
	bpf.RoomForBits(spec)
	objs := struct {
		*bpf.LBMaps
		*bpf.LBVariables
		Data  *ebpf.Map     `ebpf:".data"`
		Bss   *ebpf.Map     `ebpf:".bss"`
		Clock *ebpf.Program `ebpf:"clock"`
	}{LBMaps: &g.LBMaps, LBVariables: &g.LBVariables}
	shared, err := l.lasting(spec)
	if err != nil {
		return nil, err
	}
	if err := load(spec, shared, g.growing, &objs); err != nil {
		return nil, err
	}
	g.data, g.bss, g.Clock = objs.Data, objs.Bss, objs.Clock
	if err := l.carry(g); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.loadPrograms(spec, shared)
	return g, nil
}

// loadPrograms begins to load the programs: that takes longer than most configurations
// take to be written.
func (g *Generation) loadPrograms(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) {
	all := g.own()
	all["load"], all["stats"], all[nextMap] = g.Load, g.Stats, g.FlowsNext
	maps.Copy(all, shared)
	g.loading = new(sync.WaitGroup)
	g.loading.Go(func() { g.loadErr = load(spec.Copy(), all, g.growing, &g.programs) })
}

// await waits until the programs are there.
func (g *Generation) await() error {
	if g.loading == nil {
		return nil
	}
	g.loading.Wait()
	if g.loadErr != nil {
		return g.loadErr
	}
	clock := g.Clock
	g.LBPrograms, g.loading = g.programs, nil
	return clock.Close()
}

// load loads into to what it names, with maps in the place of those of their
// names. growing: for two flow tables.
func load(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, growing bool, to any) error {
	for name, m := range maps { // which may have grown
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	if err := errors.Join(spec.Variables["growing"].Set(growing), spec.Variables["half_open_places"].Set(spec.Maps["half_open"].MaxEntries), bpf.Size(spec)); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	err := spec.LoadAndAssign(to, &ebpf.CollectionOptions{MapReplacements: maps})
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("load the programs: the kernel's verifier refused: %w (waggle needs Linux 6.1 with BTF)", ve)
	}
	if err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	return nil
}

// Publish makes packets see the generation: it pins its maps, names it as the
// configuration, and points every attached hook at its programs. After an error
// the generation before stays. A hook that cannot be updated keeps its program,
// which forwards, and SetDevices tries again. Publish returns the generation
// before, if this process made it, for the caller to close.
func (l *Loader) Publish(g *Generation) (old *Generation, err error) {
	if err := g.await(); err != nil {
		return nil, err
	}
	dir, err := l.pin(g)
	if err != nil {
		return nil, err
	}
	if err := l.pinCarry(g); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := l.name(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("publish: %w", err), l.dropCarry(), os.RemoveAll(dir))
	}
	if err := l.keepCounts(g); err != nil {
		l.opts.Log.Error("the next start will not find all counts", "error", err)
	}
	l.hooks.swap(g)
	l.sockets.swap(g)
	old, l.current = l.current, g
	if err := removeUnused(l.opts.PinPath); err != nil {
		l.opts.Log.Warn("cannot remove the last configuration", "error", err)
	}
	return old, nil
}

// name makes a directory the configuration.
func (l *Loader) name(dir string) error {
	tmp := filepath.Join(l.opts.PinPath, configLink+nextSuffix)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(dir), tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(l.opts.PinPath, configLink))
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
	for name, m := range g.config() {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return "", errors.Join(fmt.Errorf("pin map %s in %s: %w", name, dir, err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// currentGeneration is the number of the one that config names.
func currentGeneration(pinPath string) (int, error) {
	name, err := os.Readlink(filepath.Join(pinPath, configLink))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", configLink, err)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(name, genPrefix))
	if err != nil {
		return 0, fmt.Errorf("%s leads to %q, which is no configuration: %w", configLink, name, err)
	}
	return n, nil
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
