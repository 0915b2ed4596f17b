// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

const linksDir = "links"

// Change is one hook that was attached or detached.
type Change struct {
	Device   string
	Egress   bool
	Attached bool
}

// hooks are the tcx links, pinned so that they outlive the process.
type hooks struct {
	dir   string
	log   *slog.Logger
	links map[hook]link.Link
	names map[hook]string
}

func newHooks(dir string, log *slog.Logger) hooks {
	return hooks{dir: dir, log: log, links: make(map[hook]link.Link), names: make(map[hook]string)}
}

// pinOf is the name of a hook's link: bpffs takes no dots, which device names
// may have, so it is the index.
func pinOf(h hook) string {
	name := strconv.Itoa(h.ifindex) + "-ingress"
	if h.egress {
		name = strconv.Itoa(h.ifindex) + "-egress"
	}
	if h.l3 {
		name += "-l3"
	}
	return name
}

func parsePin(name string) (h hook, ok bool) {
	rest, l3 := strings.CutSuffix(name, "-l3")
	index, dir, found := strings.Cut(rest, "-")
	n, err := strconv.Atoi(index)
	return hook{n, dir == "egress", l3}, found && err == nil && (dir == "egress" || dir == "ingress")
}

// adopt takes the links that an earlier process pinned. One whose device is
// gone, or whose index another device has now, is removed.
func (h *hooks) adopt() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return fmt.Errorf("read the pinned links: %w", err)
	}
	for _, e := range entries {
		at, ok := parsePin(e.Name())
		if !ok {
			continue
		}
		pin := filepath.Join(h.dir, e.Name())
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return fmt.Errorf("open link %s: %w", pin, err)
		}
		if !holds(l, at.ifindex) {
			if err := errors.Join(l.Unpin(), l.Close()); err != nil {
				return fmt.Errorf("remove link %s of a device that is gone: %w", pin, err)
			}
			continue
		}
		h.links[at] = l
	}
	return nil
}

// holds reports whether a link is attached to the device.
func holds(l link.Link, ifindex int) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	tcx := info.TCX()
	return tcx != nil && int(tcx.Ifindex) == ifindex
}

func program(g *Generation, h hook) *ebpf.Program {
	switch {
	case h.egress && h.l3:
		return g.TcEgressL3
	case h.egress:
		return g.TcEgress
	case h.l3:
		return g.TcIngressL3
	}
	return g.TcIngress
}

// swap points all links at a generation's programs. A device that is gone
// takes its link with it.
func (h *hooks) swap(g *Generation) error {
	for at, l := range h.links {
		if err := l.Update(program(g, at)); err != nil {
			if !holds(l, at.ifindex) {
				h.forget(at)
				continue
			}
			return fmt.Errorf("update the program on device %s: %w", h.name(at), err)
		}
	}
	return nil
}

func (h *hooks) name(at hook) string {
	if n := h.names[at]; n != "" {
		return n
	}
	return "index " + strconv.Itoa(at.ifindex)
}

// forget drops a link: unpinned and closed it detaches itself.
func (h *hooks) forget(at hook) {
	l := h.links[at]
	if err := errors.Join(l.Unpin(), l.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("cannot remove a link", "device", h.name(at), "error", err)
	}
	delete(h.links, at)
	delete(h.names, at)
}

// attach attaches and pins a program. At ingress it is the first, so that
// others see the packet with its backend; at egress the last.
func (h *hooks) attach(g *Generation, at hook) error {
	opts := link.TCXOptions{Interface: at.ifindex, Program: program(g, at), Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	if at.egress {
		opts.Attach, opts.Anchor = ebpf.AttachTCXEgress, link.Tail()
	}
	l, err := link.AttachTCX(opts)
	if err != nil {
		return err
	}
	if err := l.Pin(filepath.Join(h.dir, pinOf(at))); err != nil {
		return errors.Join(fmt.Errorf("pin the link: %w", err), l.Close())
	}
	h.links[at] = l
	return nil
}

func (h *hooks) close() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// SetDevices attaches the published programs to the devices that should have
// them and detaches them from others. One device's error does not keep the
// others from it; a device that vanishes meanwhile is none.
func (l *Loader) SetDevices(links []nlx.Link) (changes []Change, err error) {
	if l.current == nil {
		return nil, errors.New("attach: no configuration is published yet")
	}
	want := plan(links, l.opts.Exclude)
	for at, have := range l.hooks.links {
		if _, ok := want[at]; ok && holds(have, at.ifindex) {
			continue
		}
		changes = append(changes, Change{l.hooks.name(at), at.egress, false})
		l.hooks.forget(at)
	}
	var errs []error
	for at, name := range want {
		l.hooks.names[at] = name
		if _, ok := l.hooks.links[at]; ok {
			continue
		}
		switch err := l.hooks.attach(l.current, at); {
		case err == nil:
			changes = append(changes, Change{name, at.egress, true})
		case errors.Is(err, unix.ENODEV):
			delete(l.hooks.names, at)
		case errors.Is(err, ebpf.ErrNotSupported):
			errs = append(errs, fmt.Errorf("attach tcx to %s: %w: waggle needs Linux 6.6; older kernels are not yet supported", name, err))
		default:
			errs = append(errs, fmt.Errorf("attach tcx to %s: %w", name, err))
		}
	}
	return changes, errors.Join(errs...)
}
