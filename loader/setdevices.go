// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// SetDevices attaches the published programs to the devices that should have
// them and detaches them from others. What somebody else detached is attached
// again; a program that somebody put in the place of ours stays, and is an
// error. One device's error does not keep the others from it; a device that
// vanishes meanwhile is none.
func (l *Loader) SetDevices(links []nlx.Link) (changes []Change, err error) {
	if l.current == nil {
		return nil, errors.New("attach: no configuration is published yet")
	}
	l.links, l.hooks.refused = links, make(map[hook]error)
	want := plan(links, l.opts.Exclude)
	l.planXDP(links, want)
	defer l.settleXDP(links)
	changes, err = l.review(want)
	errs := []error{err}
	for at := range l.hooks.stale {
		errs = append(errs, l.hooks.update(l.current, at))
	}
	for at, name := range want {
		l.hooks.names[at] = name
		if _, ok := l.hooks.links[at]; ok {
			continue
		}
		switch err := l.hooks.attach(l.current, at, l.xdp[at.ifindex].Mode); {
		case err == nil:
			changes = append(changes, Change{Device: name, Hook: at.direction(), Attached: true, Mended: l.hooks.found(at)})
		case errors.Is(err, unix.ENODEV):
			delete(l.hooks.names, at)
		case at.xdp:
			l.failXDP(at, err)
		default:
			l.hooks.refused[at] = err
			errs = append(errs, fmt.Errorf("attach by %s to %s on Linux %s: %w", l.hooks.method, name, kernelRelease(), err))
		}
	}
	return changes, errors.Join(errs...)
}

// review looks at what was attached: it forgets hooks that are not wanted, or
// lost their program.
func (l *Loader) review(want map[hook]string) (changes []Change, err error) {
	var errs []error
	for at := range l.hooks.lost {
		if _, ok := want[at]; !ok {
			delete(l.hooks.lost, at)
		}
	}
	for at, have := range l.hooks.links {
		id, running := have.running()
		_, wanted := want[at]
		if wanted && running {
			if !l.hooks.stale[at] {
				errs = append(errs, l.mustBeOurs(at, id))
			}
			continue
		}
		if wanted {
			l.hooks.lost[at] = have.lost()
		} else {
			changes = append(changes, Change{Device: l.hooks.name(at), Hook: at.direction()})
		}
		l.hooks.forget(at)
	}
	return changes, errors.Join(errs...)
}

// mustBeOurs returns an error if the program at a hook is not that of the
// generation.
func (l *Loader) mustBeOurs(at hook, id ebpf.ProgramID) error {
	info, err := program(l.current, at).Info()
	if err != nil {
		return fmt.Errorf("look at the program of device %s: %w", l.hooks.name(at), err)
	}
	if own, _ := info.ID(); own != id {
		return fmt.Errorf("somebody put program %d in the place of waggle's, %d, at the %s of device %s: take it away, and start waggle again",
			id, own, at.direction(), l.hooks.name(at))
	}
	return nil
}

// found takes what was lost at a hook: a qdisc once for all hooks of the device.
func (h *hooks) found(at hook) What {
	what := h.lost[at]
	delete(h.lost, at)
	if what != Qdisc {
		return what
	}
	for other := range h.lost {
		if other.ifindex == at.ifindex {
			h.lost[other] = ""
		}
	}
	return what
}
