// SPDX-License-Identifier: Apache-2.0

package sched

// The schedulers that look at load: a run has the usable backends in list
// order, and the flags say how their costs compare.
var (
	lc = Scheduler{
		Name:    "lc",
		Doc:     "least connections, weights other than 0 ignored",
		Rule:    Least,
		compile: least(0),
	}
	wlc = Scheduler{
		Name:    "wlc",
		Doc:     "weighted least connections: the fewest for its weight",
		Rule:    Least,
		compile: least(LeastWeighted),
	}
	sed = Scheduler{
		Name:    "sed",
		Doc:     "shortest expected delay: the fewest active connections for its weight, with the new one",
		Rule:    Least,
		compile: least(LeastWeighted | LeastExpected),
	}
	nq = Scheduler{
		Name:    "nq",
		Doc:     "never queue: the first that has no active connection, else as sed",
		Rule:    Least,
		compile: least(LeastWeighted | LeastExpected | LeastIdle),
	}
)

func least(flags Flags) func(r, prev *Run, at Position) {
	return func(r, _ *Run, _ Position) {
		r.Flags, r.Slots = flags, usable(r.Backends)
	}
}
