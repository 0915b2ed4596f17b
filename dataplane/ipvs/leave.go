// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"os"

	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

// Leaving is what the kernel holds of a place, while another dataplane serves, which
// meets packets first: so nothing begins here, and connections go on as they were.
type Leaving struct {
	*Reader
	lock *os.File
}

// Leave takes the place.
func Leave(p Place) (*Leaving, error) {
	lock, err := p.lock()
	if err != nil {
		return nil, err
	}
	r, err := OpenReader(p)
	if err != nil {
		return nil, errors.Join(err, closeLock(lock))
	}
	return &Leaving{r, lock}, nil
}

// Follow changes nothing: connections stay with their servers.
func (l *Leaving) Follow(*lb.Snapshot) error { return nil }

// Tasks are none: IPVS ends what is idle.
func (l *Leaving) Tasks() []task.Task { return nil }

// Close releases the handles. What the kernel holds stays.
func (l *Leaving) Close() error { return errors.Join(l.Reader.Close(), closeLock(l.lock)) }

// End closes it, and removes what the kernel holds and returns what that was, in
// words. Its connections end.
func (l *Leaving) End() (removed []string, err error) {
	if err := l.Close(); err != nil {
		return nil, err
	}
	return Cleanup(l.place)
}
