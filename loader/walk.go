// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// walks are the two forms of the walk over sockets, by program and pin: the first
// meets all there are, the second those that are open files of tasks.
var walks = [...]string{"walk_sockets", "walk_files"}

// SocketWalk is a walk over the sockets that were led.
type SocketWalk struct {
	// Open begins one; what is read are records as package maps/sockets reads
	// them. Nil: the kernel has none. It may be called by any goroutine until
	// the pin path is closed.
	Open func() (io.ReadCloser, error)
	// All says that it meets all sockets, of all processes.
	All bool
}

// takeWalker takes the chosen form's program out of those of generations, of
// which it needs nothing.
func takeWalker(spec *ebpf.CollectionSpec) (walker *ebpf.ProgramSpec) {
	for _, name := range walks {
		if p := spec.Programs[name]; p.Type == ebpf.Tracing {
			walker = p
			bpf.WithoutProgram(spec, name)
		}
	}
	return walker
}

// startWalk pins the walk, in the place of an earlier process's: a version may tell
// more. Where the kernel refuses it all else works.
func (l *Loader) startWalk() error {
	for _, name := range walks {
		if err := os.Remove(filepath.Join(l.opts.PinPath, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the last walk over sockets: %w", err)
		}
	}
	it, err := l.newWalk()
	if err != nil {
		l.opts.Log.Warn("the kernel refuses walks over sockets: counts of backends are audited as far as flows go, and sockets that are led to backends which are gone are not told", "error", err)
		return nil
	}
	l.walk, err = pinLink(it, filepath.Join(l.opts.PinPath, l.walker.Name))
	return err
}

func (l *Loader) newWalk() (*link.Iter, error) {
	const of = "sockets"
	spec := &ebpf.CollectionSpec{
		Maps:     map[string]*ebpf.MapSpec{of: l.spec.Maps[of].Copy()},
		Programs: map[string]*ebpf.ProgramSpec{l.walker.Name: l.walker.Copy()},
		Types:    l.spec.Types, ByteOrder: l.spec.ByteOrder,
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{of: l.shared[of]}})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", l.walker.Name, err)
	}
	defer c.Close()
	opts := link.IterOptions{Program: c.Programs[l.walker.Name]}
	if l.walker.Name == walks[0] {
		opts.Map = l.shared[of]
	}
	return link.AttachIter(opts)
}

// Walk returns the walk over sockets.
func (l *Loader) Walk() SocketWalk {
	if l.walk == nil {
		return SocketWalk{}
	}
	it, ok := l.walk.Link.(*link.Iter)
	if !ok {
		return SocketWalk{}
	}
	return SocketWalk{Open: it.Open, All: meetsAll(l.walker.Name)}
}

// PinnedWalk returns the walk that is pinned at a pin path. It takes no privilege
// but to read the pin.
func PinnedWalk(pinPath string) SocketWalk {
	for _, name := range walks {
		pin := filepath.Join(pinPath, name)
		if _, err := os.Stat(pin); err == nil {
			return SocketWalk{Open: func() (io.ReadCloser, error) { return os.Open(pin) }, All: meetsAll(name)}
		}
	}
	return SocketWalk{}
}

// initialPIDs is the inode number of the first namespace of processes.
const initialPIDs = 0xeffffffc

// meetsAll reports whether a form meets all sockets. The walk over files meets
// those of the processes that its reader's namespace has.
func meetsAll(walk string) bool {
	if walk == walks[0] {
		return true
	}
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == initialPIDs
}
