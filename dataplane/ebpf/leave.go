// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
)

// Obstacle is what keeps the programs from a kernel.
type Obstacle = loader.Obstacle

// Probe returns the Obstacle that there is, nil if there is none.
func Probe() error { return loader.Probe() }

// Exists reports whether a pin path holds what packets see.
func Exists(pinPath string) bool {
	p, err := loader.OpenPinned(pinPath)
	if err != nil {
		return !errors.Is(err, loader.ErrNotRunning)
	}
	return p.Close() == nil
}

// Leaving is what is pinned, while another dataplane serves: its flows go on, and
// nothing that begins is led any more, but passed to the stack.
type Leaving struct {
	d       *Dataplane
	pinPath string
}

// Leave takes the pin path. Packets see no difference before the first Follow.
func Leave(opts Options) (*Leaving, error) {
	d, err := New(opts)
	if err != nil {
		return nil, err
	}
	return newLeaving(d, opts.PinPath), nil
}

func newLeaving(d *Dataplane, pinPath string) *Leaving {
	d.behind = dataplane.Behind{Translates: true}
	return &Leaving{d, pinPath}
}

// Follow has flows whose backend is gone from the snapshot end as their service says;
// from the first time on nothing begins here.
func (l *Leaving) Follow(snap *lb.Snapshot) error {
	without, err := withoutFrontends(snap)
	if err != nil {
		return err
	}
	return l.d.Apply(without).Err // what fails alone keeps what it has
}

// withoutFrontends returns the services that nobody reaches, with what their flows
// need; ranges of VIPs are not refused for.
func withoutFrontends(snap *lb.Snapshot) (*lb.Snapshot, error) {
	var list []*lb.Service
	for svc := range snap.All() {
		bare := *svc
		bare.Frontends, bare.SourceRanges = nil, nil
		list = append(list, &bare)
	}
	out, err := lb.NewSnapshot(list...)
	if err != nil {
		return nil, fmt.Errorf("leave out what is reached from outside: %w", err)
	}
	return out, nil
}

// Tasks are those of the dataplane, until Close.
func (l *Leaving) Tasks() []task.Task { return l.d.Tasks() }

// Live counts the flows that have not ended.
func (l *Leaving) Live() (n int, err error) {
	err = l.d.withReader(func(r *reader) error {
		return r.Flows(func(f dataplane.Flow) error {
			if !f.IsOver() {
				n++
			}
			return nil
		})
	})
	return n, err
}

// Close releases the process's handles and the pin path. What is pinned stays.
func (l *Leaving) Close() error { return l.d.Close() }

// End closes it, and removes what is pinned and returns what that was. Its flows end.
func (l *Leaving) End() (removed []string, err error) {
	if err := l.Close(); err != nil {
		return nil, err
	}
	return Cleanup(l.pinPath)
}
