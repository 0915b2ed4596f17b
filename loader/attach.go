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
	"golang.org/x/sys/unix"
)

const linksDir = "links"

// Change is one hook that was attached or detached, of a device or a control group.
type Change struct {
	Device   string
	Cgroup   string
	Hook     string // ingress, egress, xdp, connect4, …
	Attached bool
	// Mended says what was gone, if it was there before: Program or Qdisc. Of a
	// qdisc only the first of the hooks that went with it says so.
	Mended What
}

// Method is how programs are attached to devices.
type Method string

// The methods. Auto takes TCX where the kernel has it: from 6.6 on.
const (
	Auto   Method = ""
	TCX    Method = "tcx"
	Clsact Method = "clsact"
)

// attacher is one method. At ingress a program becomes the first, so that
// others see the packet with its backend; at egress the last. What it attaches
// outlives the process.
type attacher interface {
	// attach records at pin, a path on bpffs, what it does.
	attach(p *ebpf.Program, at hook, pin string) (attachment, error)
}

// attachment is a program on a hook.
type attachment interface {
	// update puts another program in its place; no packet is missed.
	update(p *ebpf.Program) error
	// running returns the program that is on the hook, by id; false if none of
	// this attachment is there any more, or the device is another.
	running() (ebpf.ProgramID, bool)
	// lost says what is gone when running is false.
	lost() What
	// repin puts its record back if it is gone, and reports that it did.
	repin() (bool, error)
	// detach removes it and its record, unless another thing is in its place.
	detach() error
	// Close releases handles; the program stays.
	Close() error
}

// chooseMethod turns Auto into what the kernel can, and says why.
func chooseMethod(m Method) (_ Method, why string, err error) {
	why = "it was asked for"
	if m == Auto && forced != Auto {
		m, why = forced, "this binary was built so"
	}
	switch m {
	case TCX, Clsact:
		return m, why, nil
	case Auto:
		if haveTCX() {
			return TCX, "the kernel has it, Linux " + kernelRelease(), nil
		}
		return Clsact, fmt.Sprintf("the kernel, Linux %s, has no tcx, which came with 6.6", kernelRelease()), nil
	}
	return "", "", fmt.Errorf("attach by %q: write %s or %s", m, TCX, Clsact)
}

// kernelRelease is for messages.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// hooks are the attached programs, by place.
type hooks struct {
	dir    string
	log    *slog.Logger
	method Method
	why    string // that method
	clsact *clsact
	links  map[hook]attachment
	names  map[hook]string
	// stale hooks have programs of a generation before.
	stale map[hook]bool
	// refused says why a program could not be attached, lost what was found
	// gone and is not there again.
	refused map[hook]error
	lost    map[hook]What
	// failed are devices that took no XDP program, by index.
	failed map[int]failedXDP
}

func newHooks(dir string, log *slog.Logger, m Method) (hooks, error) {
	m, why, err := chooseMethod(m)
	if m == Clsact {
		log.Info("programs are attached by filters of clsact", "why", why)
	}
	return hooks{
		dir: dir, log: log, method: m, why: why, clsact: newClsact(dir),
		links: make(map[hook]attachment), names: make(map[hook]string), stale: make(map[hook]bool), lost: make(map[hook]What), failed: make(map[int]failedXDP),
	}, err
}

func (h *hooks) attacher() attacher {
	if h.method == TCX {
		return tcx{}
	}
	return h.clsact
}

// pinOf is the name of a hook's record: bpffs takes no dots, which device
// names may have, so it is the index.
func pinOf(h hook) string {
	name := strconv.Itoa(h.ifindex) + "-" + h.direction()
	if h.l3 {
		name += "-l3"
	}
	return name
}

func parsePin(name string) (h hook, ok bool) {
	rest, l3 := strings.CutSuffix(name, "-l3")
	index, dir, found := strings.Cut(rest, "-")
	n, err := strconv.Atoi(index)
	if dir == xdpSuffix && !l3 {
		return xdpHook(n), found && err == nil
	}
	return hook{ifindex: n, egress: dir == "egress", l3: l3}, found && err == nil && (dir == "egress" || dir == "ingress")
}

// adopt takes what an earlier process attached, by whatever method. One whose
// device is gone, or whose index another device has now, is removed.
func (h *hooks) adopt() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return fmt.Errorf("read the pinned links: %w", err)
	}
	for _, e := range entries {
		at, ok := parsePin(e.Name())
		pin := filepath.Join(h.dir, e.Name())
		if !ok {
			h.clsact.adoptQdisc(pin)
			continue
		}
		a, err := h.clsact.adoptAny(at, pin, e)
		if err != nil {
			return fmt.Errorf("adopt %s: %w", pin, err)
		}
		if _, ok := a.running(); !ok {
			if err := errors.Join(a.detach(), a.Close()); err != nil {
				return fmt.Errorf("remove %s of a device that is gone: %w", pin, err)
			}
			continue
		}
		h.links[at] = a
	}
	return nil
}

func program(g *Generation, h hook) *ebpf.Program {
	switch {
	case h.xdp:
		return g.XdpIngress
	case h.egress && h.l3:
		return g.TcEgressL3
	case h.egress:
		return g.TcEgress
	case h.l3:
		return g.TcIngressL3
	}
	return g.TcIngress
}

// swap points all hooks at a generation's programs. Those that it cannot update
// are stale.
func (h *hooks) swap(g *Generation) {
	for at := range h.links {
		if err := h.update(g, at); err != nil {
			h.log.Error("a device keeps the programs of before", "error", err)
		}
	}
}

// update points a hook at a generation's program. A device that is gone takes
// its hooks with it.
func (h *hooks) update(g *Generation, at hook) error {
	l := h.links[at]
	err := l.update(program(g, at))
	if err == nil {
		delete(h.stale, at)
		return nil
	}
	if _, ok := l.running(); !ok {
		h.lost[at] = l.lost()
		h.forget(at)
		return nil
	}
	h.stale[at] = true
	return fmt.Errorf("update the program on device %s on Linux %s: %w", h.name(at), kernelRelease(), err)
}

func (h *hooks) name(at hook) string {
	if n := h.names[at]; n != "" {
		return n
	}
	return "index " + strconv.Itoa(at.ifindex)
}

// forget detaches a hook.
func (h *hooks) forget(at hook) {
	l := h.links[at]
	if err := errors.Join(l.detach(), l.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("cannot detach a program", "device", h.name(at), "error", err)
	}
	delete(h.links, at)
	delete(h.names, at)
	delete(h.stale, at)
}

// attach attaches to a hook, to XDP's in a mode.
func (h *hooks) attach(g *Generation, at hook, mode XDPMode) (err error) {
	var l attachment
	if pin := filepath.Join(h.dir, pinOf(at)); at.xdp {
		l, err = attachXDP(program(g, at), at, pin, mode)
	} else {
		l, err = h.attacher().attach(program(g, at), at, pin)
	}
	if err != nil {
		return err
	}
	h.links[at] = l
	return nil
}

func (h *hooks) close() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Close())
	}
	if h.clsact != nil {
		h.clsact.close()
	}
	return errors.Join(errs...)
}
