// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
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
	return &tcxLink{l, at.ifindex}, nil
}

func adoptTCX(at hook, pin string) (attachment, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	return &tcxLink{l, at.ifindex}, nil
}

func (l *tcxLink) update(p *ebpf.Program) error { return l.Update(p) }

func (l *tcxLink) holds() bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	at := info.TCX()
	return at != nil && int(at.Ifindex) == l.ifindex
}

// detach leaves the link to Close: with its last handle it is gone.
func (l *tcxLink) detach() error { return l.Unpin() }
