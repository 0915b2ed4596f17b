// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// Place is where a dataplane of IPVS keeps things, of which a network namespace has
// one.
type Place struct {
	// Device is the name of the dummy device for VIPs; "": DefaultDevice.
	Device string
	// Owner says whose it is: others leave it alone.
	Owner string
	// Lock is a file that one process at a time holds, made if missing; "": none is.
	Lock string
}

// ErrLocked says that another process works here.
var ErrLocked = errors.New("another waggle works on IPVS here")

func (p Place) device() string { return cmp.Or(p.Device, DefaultDevice) }

// find returns what the device says; false if there is none. One that is another's is
// an error.
func (p Place) find() (tag, bool, error) {
	alias, err := nlx.FindDummy(p.device())
	if err != nil || alias == "" {
		return tag{}, false, err
	}
	return parseTag(alias), true, nil
}

// Exists reports whether IPVS of the calling thread's network namespace holds
// something of this owner's. It loads no module.
func (p Place) Exists() bool {
	t, found, err := p.find()
	return err == nil && found && t.owner == p.Owner
}

// lock takes the place for this process: flock(2), which ends with the process. The
// file stays; nil without one.
func (p Place) lock() (*os.File, error) {
	if p.Lock == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(p.Lock), 0o700); err != nil {
		return nil, fmt.Errorf("make a place for the lock of IPVS: %w", err)
	}
	f, err := os.OpenFile(p.Lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock IPVS: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop it", ErrLocked)
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", p.Lock, err), f.Close())
	}
	return f, nil
}
