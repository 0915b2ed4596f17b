// SPDX-License-Identifier: Apache-2.0

// Package sched holds the schedulers: pure functions that compile a service's
// backends into a run of slots. The kernel knows three rules that read a run
// (Rule); everything that distinguishes rr from wrr, or sh from mh, is here.
//
// The behaviour is that of the Linux kernel's IPVS schedulers of the same
// names, pick for pick (docs/schedulers.md says what that is and how it is known).
package sched

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// Rule is how the kernel picks from a run. The numbers are the dataplane's ABI.
type Rule uint8

// The three rules. A run with no slots has nothing to pick, whatever its rule.
const (
	Cursor Rule = 1 // the next slot: a counter modulo the run's length
	Hash   Rule = 2 // the slot at a hash of the packet
	Least  Rule = 3 // the slot whose backend has the lowest cost; ties: the first
)

// String returns the rule's name as bpftool users see it in the docs.
func (r Rule) String() string {
	switch r {
	case Cursor:
		return "CURSOR"
	case Hash:
		return "HASH"
	case Least:
		return "LEAST"
	}
	return fmt.Sprintf("Rule(%d)", uint8(r))
}

// Flags modify a rule. Their meaning depends on the rule; the numbers are the
// dataplane's ABI (three bits).
type Flags uint8

// The flags of Hash.
const (
	HashPort     Flags = 1 << 0 // the source port takes part
	HashDest     Flags = 1 << 1 // the destination address instead of the source
	HashFallback Flags = 1 << 2 // try further slots when the backend cannot serve
)

// The flags of Least.
const (
	LeastWeighted Flags = 1 << 0 // divide the cost by the weight
	LeastExpected Flags = 1 << 1 // cost is active+1 (sed), not 256*active+active+inactive
	LeastIdle     Flags = 1 << 2 // the first backend with no active connection wins (nq)
)

// Run is a compiled set. Immutable.
type Run struct {
	// Scheduler is the registry name it was compiled by.
	Scheduler string
	Rule      Rule
	Flags     Flags
	// Slots are indices into Backends.
	Slots []int
	// Backends are those that the run was compiled from, in list order.
	Backends []lb.Backend
	// Start is the first cursor value; Cursor picks Slots[cursor mod len].
	Start uint64

	state any // what the scheduler needs to go on from here
}

// Scheduler compiles runs.
type Scheduler struct {
	// Name is what users write: "rr".
	Name string
	// Doc is one line for --help and the documentation.
	Doc string
	// compile makes the run for backends. prev is nil for a new service, else
	// the run before, of the same scheduler (rebind false) or of another one
	// (rebind true); picks is how many were taken from prev.
	compile func(backends []lb.Backend, prev *Run, picks uint64) (*Run, error)
}

// schedulers is the registry: adding a scheduler is one file, one row here and
// one golden file.
var schedulers = []Scheduler{rr, wrr}

// MaxSlots bounds one run: wrr's cycle has as many slots as the weights sum to,
// divided by their greatest common divisor.
const MaxSlots = 1 << 18

// WeightError says that weights make a cycle longer than MaxSlots.
type WeightError struct{ Slots int }

func (e *WeightError) Error() string {
	return fmt.Sprintf("weights make a cycle of %d picks, more than %d: divide them all by the same number", e.Slots, MaxSlots)
}

// Names returns the names of all schedulers, in the order of the registry.
func Names() []string {
	out := make([]string, len(schedulers))
	for i, s := range schedulers {
		out[i] = s.Name
	}
	return out
}

// UnknownError says that a name is not in the registry.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string {
	if later[e.Name] {
		return fmt.Sprintf("scheduler %q is not yet supported: write one of %s", e.Name, strings.Join(Names(), ", "))
	}
	return fmt.Sprintf("unknown scheduler %q: write one of %s", e.Name, strings.Join(Names(), ", "))
}

// later are IPVS's schedulers that waggle does not have; naming them lets the
// error say that the word is right and the feature is missing.
var later = map[string]bool{
	"lc": true, "wlc": true, "sh": true, "dh": true, "sed": true, "nq": true, "mh": true,
	"fo": true, "ovf": true, "lblc": true, "lblcr": true, "twos": true,
}

// Find returns the scheduler of this name or an *UnknownError.
func Find(name string) (Scheduler, error) {
	i := slices.IndexFunc(schedulers, func(s Scheduler) bool { return s.Name == name })
	if i < 0 {
		return Scheduler{}, &UnknownError{name}
	}
	return schedulers[i], nil
}

// Compile makes the run for backends, which stand in list order (newest
// first). prev is the service's run before this change, nil for a new service,
// and picks is how many picks were taken from it since it was compiled; both
// decide where rr and wrr go on. A scheduler other than prev's is bound anew,
// as ipvsadm -E -s does. backends is kept and must not change.
func Compile(name string, backends []lb.Backend, prev *Run, picks uint64) (*Run, error) {
	s, err := Find(name)
	if err != nil {
		return nil, err
	}
	r, err := s.compile(backends, prev, picks)
	if err != nil {
		return nil, err
	}
	r.Scheduler, r.Backends = name, backends
	return r, nil
}

// Pick returns the index into r.Backends that the n-th pick (from 0) of a
// Cursor run takes; false if the run is empty or of another rule.
func (r *Run) Pick(n uint64) (int, bool) {
	if r.Rule != Cursor || len(r.Slots) == 0 {
		return 0, false
	}
	return r.Slots[(r.Start+n)%uint64(len(r.Slots))], true
}
