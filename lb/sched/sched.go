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
// dataplane's ABI (four bits).
type Flags uint8

// The flag of Cursor.
const (
	CursorPasses Flags = 1 << 0 // a pick that finds nobody may go to the top: see Position
)

// The flags of Hash.
const (
	HashPort     Flags = 1 << 0 // the source port takes part
	HashDest     Flags = 1 << 1 // the destination address instead of the source
	HashFallback Flags = 1 << 2 // try further slots when the backend cannot serve
	HashSip      Flags = 1 << 3 //nolint:staticcheck // SipHash-1-3, not the multiplicative hash; runs may share their slots
)

// The flags of Least.
const (
	LeastWeighted Flags = 1 << 0 // divide the cost by the weight
	LeastExpected Flags = 1 << 1 // cost is active+1 (sed), not 256*active+active+inactive
	LeastIdle     Flags = 1 << 2 // the first backend with no active connection wins (nq)
)

// MaxBackends is how many backends a service can have.
const MaxBackends = 65535

// Run is a compiled set. Immutable.
type Run struct {
	// Scheduler is the registry name it was compiled by.
	Scheduler string
	Rule      Rule
	Flags     Flags
	// Slots are indices into Backends. Runs of mh share them: see HashSip.
	Slots []uint16
	// Backends are those that the run was compiled from, in list order.
	Backends []lb.Backend
	// Start is the first position of Cursor, which takes Slots[position mod len].
	Start uint64
	// LastPass is the index in Slots at which the last pass of a cycle begins, if
	// the flags have CursorPasses.
	LastPass int

	last  []uint16 // of each backend the last weight other than 0; nil: what Backends say
	state any      // what the scheduler needs to go on from here
}

// Scheduler compiles runs.
type Scheduler struct {
	// Name is what users write: "rr".
	Name string
	// Doc is one line for --help and the documentation.
	Doc string
	// Rule is that of its runs.
	Rule Rule
	// Flags are the flags that it takes.
	Flags lb.SchedulerFlags
	// compile completes the run r for r.Backends. prev is nil for a new service,
	// else the run before, perhaps of another scheduler, and at where it stood.
	compile func(r, prev *Run, at Position)
}

// schedulers is the registry: adding a scheduler is one file, one row here and
// one golden file.
var schedulers = []Scheduler{rr, wrr, lc, wlc, sed, nq, sh, dh, mh}

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
	if n := nearest[e.Name]; n != "" {
		return fmt.Sprintf("scheduler %q is not supported: the nearest is %s", e.Name, n)
	}
	return fmt.Sprintf("unknown scheduler %q: write one of %s", e.Name, strings.Join(Names(), ", "))
}

// nearest has IPVS's schedulers that waggle does not have, and what comes
// nearest to each.
var nearest = map[string]string{
	"fo":    "sed with weight 65535 for the backend that shall have all, and 1 for those that stand by",
	"ovf":   "sed with weight 65535 and an upper threshold for the backend to be filled first, and 1 for those that take the rest",
	"lblc":  "dh, which keeps a destination at one backend but does not look at load",
	"lblcr": "dh, which keeps a destination at one backend but does not look at load",
	"twos":  "wlc, which compares all backends, not two of them",
}

// Find returns the scheduler of this name or an *UnknownError.
func Find(name string) (Scheduler, error) {
	i := slices.IndexFunc(schedulers, func(s Scheduler) bool { return s.Name == name })
	if i < 0 {
		return Scheduler{}, &UnknownError{name}
	}
	return schedulers[i], nil
}

// Compile makes the run for one pool of a service, whose backends stand in list
// order (newest first). prev is the pool's run before this change, nil for a new
// one, and at is where it stands; both decide where rr and wrr go on, and
// what mh remembers. A scheduler other than prev's is bound anew, as ipvsadm -E
// -s does. The pool is kept and must not change.
func Compile(svc *lb.Service, pool []lb.Backend, prev *Run, at Position) (*Run, error) {
	s, err := Find(svc.Scheduler)
	if err != nil {
		return nil, err
	}
	if err := s.Takes(svc.SchedulerFlags); err != nil {
		return nil, err
	}
	if n := len(pool); n > MaxBackends {
		return nil, fmt.Errorf("service %s has %d backends: at most %d", svc.ID, n, MaxBackends)
	}
	r := &Run{
		Scheduler: s.Name, Rule: s.Rule, Flags: hashFlags(svc.SchedulerFlags),
		Backends: pool, last: lastWeights(pool, prev),
	}
	s.compile(r, prev, at)
	return r, nil
}

// Restore makes a run that stands for one that a former process compiled for
// the pool; it is only good as the prev of Compile. last are what LastWeight
// said of each backend. rr and wrr go on where that run stood if Compile gets
// its position.
func Restore(svc *lb.Service, pool []lb.Backend, last []uint16) *Run {
	r := &Run{Scheduler: svc.Scheduler, Backends: pool, last: make([]uint16, len(pool))}
	copy(r.last, last)
	for i, b := range pool {
		if b.Weight > 0 {
			r.last[i] = b.Weight
		}
	}
	// only these have a position; a table of mh would be built for nothing
	if s, err := Find(svc.Scheduler); err == nil && s.Rule == Cursor && len(r.Backends) <= MaxBackends {
		r.Rule = s.Rule
		s.compile(r, nil, Position{})
	}
	return r
}

// LastWeight is, with mh, the last weight other than 0 of Backends[i], and 0 if
// it never had one; with others its weight.
func (r *Run) LastWeight(i int) uint16 {
	if r.Scheduler != mhName {
		return r.Backends[i].Weight
	}
	return r.lastWeight(i)
}

func (r *Run) lastWeight(i int) uint16 {
	if r.last == nil {
		return r.Backends[i].Weight
	}
	return r.last[i]
}
