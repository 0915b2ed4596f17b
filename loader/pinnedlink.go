// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// pinnedLink is a link that its pin keeps alive: without it the program is off its
// place.
type pinnedLink struct {
	link.Link
	pin string
}

// pinLink pins a new link.
func pinLink(l link.Link, pin string) (*pinnedLink, error) {
	if err := l.Pin(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link: %w", err), l.Close())
	}
	return &pinnedLink{l, pin}, nil
}

func adoptLink(pin string) (*pinnedLink, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	return &pinnedLink{l, pin}, nil
}

func (l *pinnedLink) update(p *ebpf.Program) error { return l.Update(p) }

func (l *pinnedLink) lost() What { return Program }

// pinned reports whether the pin is there; an error if something else is.
func (l *pinnedLink) pinned() (bool, error) {
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

func (l *pinnedLink) repin() (bool, error) {
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

// rename moves the pin.
func (l *pinnedLink) rename(pin string) error {
	if pin == l.pin {
		return nil
	}
	if err := l.Pin(pin); err != nil { // the link knows its former pin
		return fmt.Errorf("move the pin to %s: %w", pin, err)
	}
	l.pin = pin
	return nil
}

// detach leaves the link to Close: with its last handle it is gone.
func (l *pinnedLink) detach() error {
	if _, err := l.pinned(); err != nil {
		return nil
	}
	return l.Unpin()
}
