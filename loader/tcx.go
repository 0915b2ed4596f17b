// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// tcx attaches by links.
type tcx struct{}

type tcxLink struct {
	*pinnedLink
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
	pinned, err := pinLink(l, pin)
	if err != nil {
		return nil, err
	}
	return &tcxLink{pinned, at.ifindex}, nil
}

func adoptTCX(at hook, pin string) (attachment, error) {
	l, err := adoptLink(pin)
	if err != nil {
		return nil, err
	}
	return &tcxLink{l, at.ifindex}, nil
}

func (l *tcxLink) running() (ebpf.ProgramID, bool) {
	info, err := l.Info()
	if err != nil {
		return 0, false
	}
	at := info.TCX()
	return info.Program, at != nil && int(at.Ifindex) == l.ifindex
}
