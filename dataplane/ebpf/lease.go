// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"sync"

	"github.com/waggle-lb/waggle/loader"
)

// leases are held by those who use a generation without the lock of the
// dataplane, for longer than it may be held.
type leases struct {
	held *sync.WaitGroup
	// ending is cancelled when the generation is to be closed.
	ending context.Context
	cancel context.CancelFunc
}

func newLeases() leases {
	ending, cancel := context.WithCancel(context.Background())
	return leases{new(sync.WaitGroup), ending, cancel}
}

// end waits until nobody holds the generation. The caller has the dataplane's
// lock, so nobody begins to.
func (l *leases) end() {
	l.cancel()
	l.held.Wait()
	*l = newLeases()
}

// lease returns the generation that packets see, to be used until release, and
// a context that ends with ctx or when the generation is to be closed: then its
// user must come to an end soon. Who holds a lease must not lock the
// dataplane.
func (d *Dataplane) lease(ctx context.Context) (_ context.Context, g *loader.Generation, release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := d.leases.held
	held.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.leases.ending, cancel)
	return ctx, d.gen, func() {
		stop()
		cancel()
		held.Done()
	}
}
