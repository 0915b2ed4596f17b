// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
)

// What is a kind of thing that somebody else may take away and waggle puts back.
type What string

// The kinds.
const (
	Program What = "program" // off its device
	Qdisc   What = "qdisc"   // clsact, and with it the programs of the device
	Pin     What = "pin"
)

// strangerError says that another thing stands where a pin was. It is not ours
// to remove.
type strangerError struct {
	path string
	err  error // of looking at it, if any
}

func (e *strangerError) Error() string {
	text := fmt.Sprintf("something that is not waggle's is at %s, in place of a pin: remove it, and the pin comes back", e.path)
	if e.err != nil {
		text += fmt.Sprintf(" (%v)", e.err)
	}
	return text
}

func (e *strangerError) Unwrap() error { return e.err }

// Repin puts back the pins that somebody removed, from the handles of this
// process, and returns their paths; a pin path that is gone it makes again. What
// else stands in the place of a pin is left, and is an error. It goes on after
// errors and returns all.
func (l *Loader) Repin() (paths []string, err error) {
	if l.current == nil {
		return nil, nil
	}
	if err := l.keepPlace(); err != nil {
		return nil, err
	}
	gen := filepath.Join(l.opts.PinPath, genPrefix+strconv.Itoa(l.current.Number))
	var errs []error
	dirs := []string{gen, l.hooks.dir}
	if len(l.sockets.all()) > 0 {
		dirs = append(dirs, l.sockets.dir)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			errs = append(errs, fmt.Errorf("put back the directory of pins: %w", err))
		}
	}
	note := func(pin string, again bool, err error) {
		errs = append(errs, err)
		if again {
			paths = append(paths, pin)
		}
	}
	for name, m := range l.shared {
		pin := filepath.Join(l.opts.PinPath, name)
		again, err := repinMap(pin, m)
		note(pin, again, err)
	}
	for name, m := range l.current.config() {
		pin := filepath.Join(gen, name)
		again, err := repinMap(pin, m)
		note(pin, again, err)
	}
	config := filepath.Join(l.opts.PinPath, configLink)
	again, err := repinRecord(config, filepath.Base(gen)) // after what it leads to
	note(config, again, err)
	for at, a := range l.hooks.links {
		again, err := a.repin()
		note(filepath.Join(l.hooks.dir, pinOf(at)), again, err)
	}
	for _, s := range l.sockets.all() {
		again, err := s.repin()
		note(s.pin, again, err)
	}
	if l.walk != nil {
		again, err := l.walk.repin()
		note(l.walk.pin, again, err)
	}
	qdiscs, err := l.hooks.clsact.repinQdiscs()
	return append(paths, qdiscs...), errors.Join(append(errs, err)...)
}

// keepPlace makes the pin path if it is gone, and takes it as Open did: the lock
// went with the directory.
func (l *Loader) keepPlace() error {
	mine, err := l.lock.Stat()
	if err != nil {
		return fmt.Errorf("look at the lock of the pin path: %w", err)
	}
	if there, err := os.Stat(l.opts.PinPath); err == nil && os.SameFile(mine, there) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the pin path: %w", err)
	}
	if err := ensureBPFFS(l.opts.PinPath); err != nil {
		return err
	}
	if err := os.MkdirAll(l.opts.PinPath, 0o700); err != nil {
		return fmt.Errorf("make the pin path again: %w", err)
	}
	f, err := lock(l.opts.PinPath)
	if err != nil {
		return err
	}
	old := l.lock
	l.lock = f
	return old.Close()
}

// repinMap pins a map if there is nothing at its path.
func repinMap(pin string, m *ebpf.Map) (again bool, err error) {
	there, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		c, err := m.Clone() // which knows of no pin
		if err != nil {
			return false, fmt.Errorf("pin again at %s: %w", pin, err)
		}
		defer c.Close()
		if err := c.Pin(pin); err != nil {
			return false, fmt.Errorf("pin again at %s: %w", pin, err)
		}
		return true, nil
	}
	if err != nil {
		return false, &strangerError{pin, err}
	}
	defer there.Close()
	same, err := sameMap(m, there)
	if err != nil || !same {
		return false, &strangerError{pin, err}
	}
	return false, nil
}

func sameMap(a, b *ebpf.Map) (bool, error) {
	x, err := a.Info()
	if err != nil {
		return false, err
	}
	y, err := b.Info()
	if err != nil {
		return false, err
	}
	i, ok := x.ID()
	j, ok2 := y.ID()
	return ok && ok2 && i == j, nil
}

// repinQdiscs puts back the records of qdiscs, and returns which were gone.
func (c *clsact) repinQdiscs() (gone []string, err error) {
	var errs []error
	for pin, text := range c.made {
		again, err := repinRecord(pin, text)
		errs = append(errs, err)
		if again {
			gone = append(gone, pin)
		}
	}
	return gone, errors.Join(errs...)
}

// repinRecord makes a symbolic link if there is none.
func repinRecord(pin, text string) (again bool, err error) {
	there, err := os.Readlink(pin)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Symlink(text, pin); err != nil {
			return false, fmt.Errorf("put back %s: %w", pin, err)
		}
		return true, nil
	case err != nil || there != text:
		return false, &strangerError{pin, err}
	}
	return false, nil
}
