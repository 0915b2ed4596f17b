// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// options say what run does.
type options struct {
	seed    uint64
	packets uint64
	// otherPorts lets the programs choose other ports than the model knows.
	otherPorts bool
	// progress is called now and then.
	progress func(done uint64)
}

const (
	worldLength = 50000 // packets of a world
	lookEvery   = 500   // packets between two looks at the maps
	// disturbed is how long a packet may take; then the clock that the
	// programs saw is not known well enough.
	disturbed = time.Second / 10
)

// errDisturbed ends a world without a verdict.
var errDisturbed = errors.New("the machine was busy")

// result is what a run saw.
type result struct {
	packets uint64
	rules   coverage
	elapsed time.Duration
}

// run fuzzes. It uses up the calling goroutine's thread: call it on one of its
// own, which ends afterwards.
func run(o options) (res result, err error) {
	runtime.LockOSThread()
	var cpus unix.CPUSet // the programs' counters and allowances are a CPU's
	cpus.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return res, fmt.Errorf("pin to CPU %d: %w", runtime.NumCPU()-1, err)
	}
	ns, err := enterNamespace()
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	r := rand.New(rand.NewPCG(o.seed, 0))
	var kernels []*kernel
	for _, l := range []loadOptions{{capacity: 256}, {capacity: 2048, helper: true}} {
		l.start = r.Uint32()
		k, err := load(l, ns.devices, ns.tap)
		if err != nil {
			return res, err
		}
		defer k.Close()
		if o.otherPorts {
			k.start++
		}
		kernels = append(kernels, k)
	}
	res.rules = coverage{}
	start := time.Now()
	for n := uint64(0); res.packets < o.packets; n++ {
		k := kernels[n%uint64(len(kernels))]
		s := session{kernel: k, seed: o.seed + n, look: lookEvery, length: int(min(worldLength, o.packets-res.packets)), rules: res.rules}
		err := s.run()
		res.packets += uint64(s.done)
		if err != nil && !errors.Is(err, errDisturbed) {
			return res, s.explain(err)
		}
		if o.progress != nil {
			o.progress(res.packets)
		}
	}
	res.elapsed = time.Since(start)
	return res, nil
}

// session is one world from its beginning.
type session struct {
	*kernel
	seed   uint64
	look   int  // packets between two looks
	from   int  // the first that is looked after
	full   bool // a look is at all that is in the maps
	length int
	rules  coverage

	done    int
	m       *model
	g       *generator
	history []event // the last few
	until   int     // the next move of the clock
}

type event struct {
	n    int
	a    arrival
	o    outcome
	note string
}

const keepHistory = 24

func (s *session) run() error {
	r := rand.New(rand.NewPCG(s.seed, 1))
	if err := s.reset(); err != nil {
		return err
	}
	if _, err := s.seen(true, 0); err != nil { // what a world left that was disturbed
		return err
	}
	s.clock += 1000 * hz
	w, err := newWorld(r, s.kernel)
	if err != nil {
		return err
	}
	s.m = newModel(w, s.rules, s.clock)
	s.g = &generator{Rand: r, m: s.m}
	s.until = 1000
	for s.done < s.length {
		if err := s.one(r); errors.Is(err, errFull) {
			return nil
		} else if err != nil {
			return err
		}
		s.done++
		if s.done >= s.from && s.done%s.look == 0 || s.done == s.length {
			if err := s.compare(); err != nil {
				return err
			}
		}
	}
	return s.m.compareRest(s.kernel)
}

// compare looks at the maps.
func (s *session) compare() error {
	err := s.m.compare(s.kernel)
	if s.full {
		err = errors.Join(err, s.m.compareRest(s.kernel))
	}
	return err
}

// one is a packet, and what happens besides.
func (s *session) one(r *rand.Rand) error {
	if r.IntN(200) == 0 {
		if err := s.m.compareRuns(s.kernel); err != nil { // the last look at some
			return err
		}
		if err := s.m.change(r, s.kernel); err != nil {
			return err
		}
		s.note("configuration changes")
	}
	if s.until--; s.until <= 0 {
		if err := s.moveClock(r); err != nil {
			return err
		}
	}
	a, err := s.g.next()
	if err != nil {
		return err
	}
	return s.send(a, r)
}

func (s *session) note(text string) { s.remember(event{n: s.done, note: text}) }

func (s *session) remember(e event) {
	if len(s.history) == keepHistory {
		s.history = slices.Delete(s.history, 0, 1)
	}
	s.history = append(s.history, e)
}

// send runs a frame through its hook and compares.
func (s *session) send(a arrival, r *rand.Rand) error {
	var flags uint32
	if s.complete && a.hook.l3 == ethLen && r.IntN(4) == 0 {
		flags = checksumComplete
	}
	if err := s.setClock(s.m); err != nil {
		return err
	}
	start := time.Now()
	n := slices.Index(hooks, a.hook)
	ret, out, err := s.kernel.run(n, a.frame, a.dev, flags)
	if time.Since(start) > disturbed {
		return errDisturbed
	}
	want := s.m.step(a)
	s.remember(event{n: s.done, a: a, o: want})
	if errors.Is(err, unix.EBADMSG) && (want.verdict != next || len(want.sent) > 0) {
		// nobody looks at the sum of what is not passed on; and what grew has none, as fragments do that were put aside
		err, ret, out = nil, want.verdict, want.frame
	}
	if errors.Is(err, unix.EBADMSG) {
		return errors.New("the device's sum does not follow what was changed")
	}
	if err != nil {
		return err
	}
	sent, err := s.seen(a.hook.ingress, len(want.sent))
	if err != nil {
		return err
	}
	s.g.observe(a, want)
	return s.m.check(a, want, ret, out, sent)
}

// moveClock moves the clock by whole seconds, at least two: what is a second
// old or not is never a close call. A sweep is half a second later for
// the same reason.
func (s *session) moveClock(r *rand.Rand) error {
	s.until = []int{50, 200, 500, 1000, 1000, 5000}[r.IntN(6)]
	if s.g.flood = r.IntN(8) == 0; s.g.flood {
		s.until = 20000
	}
	const fraction = hz / 2
	steps := []uint64{2, 2, 3, 11, 13, 31, 61, 65, 130, 310, 1000}
	s.clock += steps[r.IntN(len(steps))] * hz
	for s.m.nearEnd(s.clock, s.clock+fraction) {
		s.clock += hz
	}
	s.m.setNow(s.clock)
	if r.IntN(3) == 0 {
		return nil
	}
	s.clock += fraction
	s.m.setNow(s.clock)
	if err := s.m.compare(s.kernel); err != nil {
		return err
	}
	if err := s.setClock(s.m); err != nil {
		return err
	}
	flush := r.IntN(2) == 0
	if err := s.setFlush(flush); err != nil {
		return err
	}
	start := time.Now()
	if err := s.walk(); err != nil {
		return err
	}
	if time.Since(start) > disturbed {
		return errDisturbed
	}
	got, err := s.flows()
	if err != nil {
		return err
	}
	err = s.m.sweep(s.kernel, got, flush)
	s.clock -= fraction
	s.m.setNow(s.clock)
	s.note("sweep")
	return errors.Join(err, s.m.compareFlows(got))
}
