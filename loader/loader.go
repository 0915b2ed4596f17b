// SPDX-License-Identifier: Apache-2.0

// Package loader brings the programs and maps of package bpf into the kernel:
// it mounts bpffs, loads, pins, attaches to devices, swaps generations and
// takes everything away again. What the maps hold is others' business.
//
// Below a pin path it keeps
//
//	flows, load, stats, …   maps that outlive every process and configuration
//	flows_next              the larger flow table, while it grows
//	gen-N/                  the maps of one configuration, complete or unused
//	config -> gen-N         the newest complete configuration: packets see it,
//	                        but at devices that a process which died had not
//	                        come to
//	links/IFINDEX-ingress   what holds a program to a device, and -egress: a
//	                        tcx link, or a symbolic link that says which
//	                        filter it is
//	links/IFINDEX-xdp       the same for XDP: a link
//	links/IFINDEX-clsact    says that the device's clsact qdisc is ours
//	cgroup/connect4, …      what holds a program to the control group: a link;
//	                        with -ID, to one whose sockets are led no more
//	walk_sockets            a file: who reads it walks the sockets that were
//	                        led; walk_files where the kernel refuses that one
//	former-N/               all that a version with another layout had, while
//	                        its connections go on
//
// A directory gen-N that config does not name is half built, left by a process
// that died, and is removed by the next one.
package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/nlx"
)

var (
	// ErrLocked says that another process works on the pin path.
	ErrLocked = errors.New("another waggle works on this pin path")
	// ErrNotRunning says that the pin path holds nothing.
	ErrNotRunning = errors.New("nothing is pinned here")
)

// LayoutError says that the maps that are pinned are of another version.
type LayoutError struct {
	PinPath   string
	Have, Own uint32
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("maps in %s have layout %d, this waggle reads %d: use the version that made them", e.PinPath, e.Have, e.Own)
}

// Options say what Open opens.
type Options struct {
	// PinPath is a directory on bpffs, made if missing.
	PinPath string
	Log     *slog.Logger
	// Exclude are patterns (path.Match) of device names that get no program.
	Exclude []string
	// Attach is how programs are attached; another than Auto is for tests.
	Attach Method
	// XDP is on which devices XDP runs before the other programs; "": none.
	// AgainstXDP says why it should be on none although it could, for XDPAuto
	// alone; "": nothing. It is asked whenever devices are set.
	XDP        XDPMode
	AgainstXDP func() string
	// Cgroup is the control group whose sockets are led, a directory; "": no
	// sockets are. HostSockets: only those of the network namespace that Open is
	// called in.
	Cgroup      string
	HostSockets bool
	// RefuseBinds refuses node ports to processes of that namespace, which are
	// only told of otherwise.
	RefuseBinds bool
	// Spec replaces the compiled-in object; tests set variables in it.
	Spec *ebpf.CollectionSpec
	// Sizes are those of maps that are made; 0: what Spec says.
	Sizes Sizes
	// Interrupt is called after each step of a growth, which its error ends
	// there, as the end of the process would. For tests.
	Interrupt func(GrowthStep) error
}

// Loader holds one pin path. Its methods are for one goroutine, but for those
// that say otherwise.
type Loader struct {
	opts    Options
	spec    *ebpf.CollectionSpec
	mover   *ebpf.ProgramSpec // of the flow table's growth
	walker  *ebpf.ProgramSpec // of the walk over sockets
	walk    *pinnedLink       // nil: the kernel refuses it
	lock    *os.File
	shared  map[string]*ebpf.Map
	current *Generation
	hooks   hooks
	sockets sockets
	links   []nlx.Link // as SetDevices had them last
	xdp     map[int]XDP
}

// sharedMaps outlive the process, by pin name.
var sharedMaps = []string{
	"flows", "direct", "direct_bits", "resourced", "affinity", "sockets", "socket_peers", "binds_seen", "half_open", "half_open_ends", "fragments", "held",
	"drops", "meta", "growth",
}

// countMaps outlive the process too. They are as large as the backends of a
// generation: so NewGeneration makes them, if there are none or larger ones are
// wanted.
var countMaps = []string{"load", "stats"}

// carryMaps are pinned while a larger load gets the counts of the one before:
// that one, and how much of it was carried.
var carryMaps = []string{"load_former", "load_carried"}

// configMaps belong to a generation, by pin name.
var configMaps = []string{"vip_bits", "peer_bits", "backend_bits", "masq_bits", "node_port_bits", "vips", "services", "service_info", "slots", "backends", "backend_ids", "node_addrs", "prefixes", "source_ranges", "service_ranges", "devices", "masq_ports"}

// Open takes the pin path: it mounts bpffs, locks, adopts or makes the shared
// maps and removes what a dead process left half built. It changes nothing
// that packets see.
func Open(opts Options) (*Loader, error) {
	if err := CheckPatterns(opts.Exclude); err != nil {
		return nil, err
	}
	spec := opts.Spec
	if spec == nil {
		var err error
		if spec, err = bpf.LoadLB(); err != nil {
			return nil, fmt.Errorf("read the compiled programs: %w", err)
		}
	}
	if err := bpf.Choose(spec); err != nil {
		return nil, err
	}
	opts.Sizes.write(spec)
	mover := spec.Programs["move_piece"]
	bpf.WithoutProgram(spec, "move_piece")
	walker := takeWalker(spec)
	if err := ensureBPFFS(opts.PinPath); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(opts.PinPath, linksDir), 0o700); err != nil {
		return nil, fmt.Errorf("make the pin path: %w", err)
	}
	l := &Loader{opts: opts, spec: spec, mover: mover, walker: walker, shared: make(map[string]*ebpf.Map)}
	var err error
	if l.lock, err = lock(opts.PinPath); err != nil {
		return nil, err
	}
	if err := l.open(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Loader) open() error {
	var other *LayoutError
	switch err := checkLayout(l.opts.PinPath); {
	case errors.As(err, &other):
		if err := l.setAside(other.Have); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	for _, name := range sharedMaps {
		m, err := l.sharedMap(name)
		if err != nil {
			return err
		}
		l.shared[name] = m
	}
	if err := errors.Join(l.adoptGrowth(), l.adoptCounts()); err != nil {
		return err
	}
	if err := removeUnused(l.opts.PinPath); err != nil {
		return err
	}
	var err error
	if l.hooks, err = newHooks(filepath.Join(l.opts.PinPath, linksDir), l.opts.Log, l.opts.Attach); err != nil {
		return err
	}
	if err := l.setVariables(); err != nil {
		return err
	}
	if l.sockets, err = newSockets(filepath.Join(l.opts.PinPath, cgroupDir), l.opts.Cgroup, l.opts.Log); err != nil {
		return err
	}
	if err := l.startWalk(); err != nil {
		return err
	}
	return errors.Join(l.hooks.adopt(), l.sockets.adopt())
}

// setVariables tells all programs what does not change as long as the process lives.
func (l *Loader) setVariables() error {
	netns, err := netnsCookie()
	if err != nil {
		return err
	}
	xdp, err := pinnedXDP(l.hooks.dir) // flows of a former process may be XDP's
	if err != nil {
		return err
	}
	if xdp = xdp || l.WantsXDP(); !xdp {
		bpf.WithoutProgram(l.spec, "xdp_ingress")
	}
	if l.opts.XDP == XDPGeneric {
		ofOnePiece(l.spec.Programs["xdp_ingress"])
	}
	factor := rand.Uint64() | 1 // odd, so that no two hashes have one product
	for name, v := range map[string]any{"ids_factor": factor, "with_xdp": xdp, "host_netns": netns, "host_sockets_only": l.opts.HostSockets, "refuse_binds": l.opts.RefuseBinds} {
		if err := l.spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("set variable %s of the programs: %w", name, err)
		}
	}
	return nil
}

// sharedMap adopts the pinned map or makes it.
func (l *Loader) sharedMap(name string) (*ebpf.Map, error) {
	pin := filepath.Join(l.opts.PinPath, name)
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err == nil {
		if err := l.checkAdopted(name, m); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open map %s: %w", pin, err)
	}
	if m, err = ebpf.NewMap(l.spec.Maps[name]); err != nil {
		return nil, sizeError(name, l.spec.Maps[name].MaxEntries, err)
	}
	if err := m.Pin(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("pin map %s: %w", pin, err), m.Close())
	}
	return m, nil
}

// checkAdopted refuses a map that these programs cannot use. One that is sized
// from memory keeps the size that it has.
func (l *Loader) checkAdopted(name string, m *ebpf.Map) error {
	spec := l.spec.Maps[name]
	if want := spec.MaxEntries; sizeFlags[name] != "" && want != m.MaxEntries() {
		if name != flowsMap && name != nextMap {
			l.opts.Log.Info("a map keeps the size it was made with, until `waggle cleanup` ends the flows", "map", name, "entries", m.MaxEntries(), "wanted", want)
		}
		spec.MaxEntries = m.MaxEntries()
	}
	if err := spec.Compatible(m); err != nil {
		return fmt.Errorf("map %s is not as this waggle needs it: %w: run `waggle cleanup --pin-path %s` (it ends the flows)", name, err, l.opts.PinPath)
	}
	return nil
}

// Map returns a shared map by its pin name; nil if there is none.
func (l *Loader) Map(name string) *ebpf.Map { return l.shared[name] }

// checkLayout refuses maps of another layout. Those of layout 0 were made by a
// process that died before it could say.
func checkLayout(pinPath string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinPath, "meta"), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open map meta: %w", err)
	}
	defer m.Close()
	var c bpf.LBClocks
	if err := m.Lookup(uint32(0), &c); err != nil {
		return fmt.Errorf("read map meta: %w", err)
	}
	if own := uint32(bpf.LBLimitsLAYOUT_VERSION); c.Layout != 0 && c.Layout != own {
		return &LayoutError{pinPath, c.Layout, own}
	}
	return nil
}

// Close gives up the lock and all handles. The kernel goes on forwarding.
func (l *Loader) Close() error {
	var errs []error
	for _, m := range l.shared {
		errs = append(errs, m.Close())
	}
	if l.current != nil {
		errs = append(errs, l.current.Close())
	}
	errs = append(errs, l.hooks.close(), l.sockets.close())
	if l.walk != nil {
		errs = append(errs, l.walk.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

// lock takes the pin path for this process: flock(2) on the directory, which
// ends with the process, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock the pin path: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop it, or take another --pin-path", ErrLocked)
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// ensureBPFFS mounts bpffs where the pin path is to be, if it is not there.
func ensureBPFFS(pinPath string) error {
	const standard = "/sys/fs/bpf"
	dir := pinPath
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return fmt.Errorf("pin path %s: %w", pinPath, err)
		}
		dir = filepath.Dir(dir)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if pinPath != standard && !strings.HasPrefix(pinPath, standard+"/") {
		return fmt.Errorf("pin path %s is not on bpffs: write a path below %s, or mount it: mount -t bpf bpf %s", pinPath, standard, dir)
	}
	if err := unix.Mount("bpf", standard, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s, which needs CAP_SYS_ADMIN: %w: run `mount -t bpf bpf %s` before", standard, err, standard)
	}
	return nil
}
