// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// tcx attaches by links, which the pin keeps alive: without it a program is
// off its device.
type tcx struct{}

type tcxLink struct {
	link.Link
	ifindex int
	pin     string
}

// haveTCX asks for what is attached to a device that cannot exist. A kernel
// that knows tcx misses the device; others do not know the question.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: math.MaxInt32, Attach: ebpf.AttachTCXIngress})
	return errors.Is(err, unix.ENODEV)
}

func (tcx) attach(p *ebpf.Program, at hook, pin string) (attachment, error) {
	opts := link.TCXOptions{Interface: at.ifindex, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	if at.egress {
		opts.Attach, opts.Anchor = ebpf.AttachTCXEgress, link.Tail()
	}
	l, err := link.AttachTCX(opts)
	if err != nil {
		return nil, err
	}
	if err := l.Pin(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link: %w", err), l.Close())
	}
	return &tcxLink{l, at.ifindex, pin}, nil
}

func adoptTCX(at hook, pin string) (attachment, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	return &tcxLink{l, at.ifindex, pin}, nil
}

func (l *tcxLink) update(p *ebpf.Program) error { return l.Update(p) }

func (l *tcxLink) running() (ebpf.ProgramID, bool) {
	info, err := l.Info()
	if err != nil {
		return 0, false
	}
	at := info.TCX()
	return info.Program, at != nil && int(at.Ifindex) == l.ifindex
}

func (l *tcxLink) lost() What { return Program }

// pinned reports whether the pin is there; an error if something else is.
func (l *tcxLink) pinned() (bool, error) {
	there, err := link.LoadPinnedLink(l.pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, &strangerError{l.pin, err}
	}
	defer there.Close()
	own, err := l.Info()
	if err != nil {
		return true, err
	}
	if other, err := there.Info(); err != nil || other.ID != own.ID {
		return true, &strangerError{l.pin, err}
	}
	return true, nil
}

func (l *tcxLink) repin() (bool, error) {
	if there, err := l.pinned(); there || err != nil {
		return false, err
	}
	if err := l.Unpin(); err != nil { // it only forgets: nothing is there
		return false, err
	}
	if err := l.Pin(l.pin); err != nil {
		return false, fmt.Errorf("pin the link again at %s: %w", l.pin, err)
	}
	return true, nil
}

// detach leaves the link to Close: with its last handle it is gone.
func (l *tcxLink) detach() error {
	if _, err := l.pinned(); err != nil {
		return nil
	}
	return l.Unpin()
}
