// SPDX-License-Identifier: Apache-2.0

// Package fake is a dataplane in plain Go: a simulation that passes the same
// conformance suite as the ones that need a kernel, holds real flows on a
// clock that tests move, and fails on request.
//
// Two types divide the work as they are divided on a machine. A Kernel holds
// what outlives a process: services, flows, counters, time. A Dataplane is a
// process's hold on it. A second Dataplane on the same Kernel is a restart.
package fake

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// ErrInjected is the error of a fault that Options.FailEvery made.
var ErrInjected = errors.New("injected fault")

// ErrClosed says that a method was called after Close.
var ErrClosed = errors.New("dataplane is closed")

// Op is what Options.Fail is asked about.
type Op string

// The operations. Those without a service get the zero lb.ServiceID.
const (
	OpApply    Op = "apply"    // the whole of an Apply: sets Report.Err
	OpAdd      Op = "add"      // one service that is new
	OpChange   Op = "change"   // one service that differs
	OpRemove   Op = "remove"   // one service that goes
	OpRead     Op = "read"     // Read
	OpCounters Op = "counters" // Counters
)

// Options configure New. The zero value is a dataplane without faults on a
// kernel of its own.
type Options struct {
	// Kernel is what to take over; nil: a new one.
	Kernel *Kernel
	// FailEvery makes every n-th write of a service (OpAdd, OpChange, OpRemove)
	// fail with ErrInjected; 0: none.
	FailEvery int
	// Fail is asked before each operation; what it returns is the operation's
	// error, nil lets it through. It is called without locks held, for OpRead
	// and OpCounters from whichever goroutine reads.
	Fail func(op Op, svc lb.ServiceID) error
}

// Dataplane is a process's hold on a Kernel. It implements
// dataplane.Dataplane; Apply and Close belong to one goroutine, everything
// else may be called from any.
type Dataplane struct {
	opts   Options
	kernel *Kernel
	writes int // asked of FailEvery so far; Apply's goroutine only
	closed atomic.Bool
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// New takes hold of opts.Kernel, as a process does when it starts. The kernel
// goes on as it was until the first Apply.
func New(opts Options) *Dataplane {
	if opts.Kernel == nil {
		opts.Kernel = NewKernel()
	}
	return &Dataplane{opts: opts, kernel: opts.Kernel}
}

// Kernel returns what the dataplane works on: where packets go in.
func (d *Dataplane) Kernel() *Kernel { return d.kernel }

// Apply implements dataplane.Dataplane. All services that do not fail change
// in one step, so packets see the snapshot before or the one after. A service
// that needs a frontend which a failed one still holds fails too.
func (d *Dataplane) Apply(snap *lb.Snapshot) dataplane.Report {
	if d.closed.Load() {
		return dataplane.Report{Err: fmt.Errorf("apply snapshot: %w", ErrClosed)}
	}
	if err := d.fault(OpApply, lb.ServiceID{}); err != nil {
		return dataplane.Report{Err: fmt.Errorf("apply snapshot: %w", err)}
	}
	held := d.kernel.snapshot()
	var next *lb.Snapshot // nil: the empty set
	if snap != nil {
		next = snap.Sharing(held)
	}
	diff := held.Compare(next)
	failed := d.refusals(diff)
	return d.kernel.commit(held, next, diff, failed)
}

// refusals asks for each write whether it can be and whether it should fail.
func (d *Dataplane) refusals(diff lb.Diff) map[lb.ServiceID]error {
	failed := make(map[lb.ServiceID]error)
	write := func(op Op, svc *lb.Service) {
		err := d.fault(op, svc.ID)
		if err == nil {
			d.writes++
			if n := d.opts.FailEvery; n > 0 && d.writes%n == 0 {
				err = ErrInjected
			}
		}
		if err != nil {
			failed[svc.ID] = fmt.Errorf("%s service %s: %w", op, svc.ID, err)
		} else if op != OpRemove {
			if err := d.Supports(svc); err != nil {
				failed[svc.ID] = err
			}
		}
	}
	for _, svc := range diff.Added {
		write(OpAdd, svc)
	}
	for _, c := range diff.Changed {
		write(OpChange, c.New)
	}
	for _, svc := range diff.Removed {
		write(OpRemove, svc)
	}
	return failed
}

func (d *Dataplane) fault(op Op, svc lb.ServiceID) error {
	if d.opts.Fail == nil {
		return nil
	}
	return d.opts.Fail(op, svc)
}

// Read implements dataplane.Dataplane.
func (d *Dataplane) Read() (*lb.Snapshot, error) {
	if d.closed.Load() {
		return nil, fmt.Errorf("read services: %w", ErrClosed)
	}
	if err := d.fault(OpRead, lb.ServiceID{}); err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return d.kernel.snapshot(), nil
}

// Counters implements dataplane.Dataplane. Backends that left their service
// are there as long as flows of theirs are.
func (d *Dataplane) Counters() (dataplane.Counters, error) {
	if d.closed.Load() {
		return dataplane.Counters{}, fmt.Errorf("read counters: %w", ErrClosed)
	}
	if err := d.fault(OpCounters, lb.ServiceID{}); err != nil {
		return dataplane.Counters{}, fmt.Errorf("read counters: %w", err)
	}
	return d.kernel.counters(), nil
}

// Close implements dataplane.Dataplane. The Kernel goes on forwarding.
func (d *Dataplane) Close() error {
	d.closed.Store(true)
	return nil
}
