// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/lb"
)

// flagWords are in ipvsadm's order; it writes the scheduler's name before them.
var flagWords = []struct {
	flag lb.SchedulerFlags
	word string
}{
	{lb.SchedulerFallback, "fallback"},
	{lb.SchedulerPort, "port"},
}

// FlagError says that a scheduler does not take a flag.
type FlagError struct{ Scheduler, Flag string }

func (e *FlagError) Error() string {
	takes := "none"
	if s, err := Find(e.Scheduler); err == nil && s.Flags != 0 {
		takes = strings.Join(FlagNames(s.Name, s.Flags), " and ")
	}
	return fmt.Sprintf("scheduler %q has no flag %q: it takes %s", e.Scheduler, e.Flag, takes)
}

// ParseFlags reads the words of ipvsadm: "sh-port", "sh-fallback", "mh-port"
// and "mh-fallback". It fails with an *UnknownError or a *FlagError.
func ParseFlags(scheduler string, names []string) (lb.SchedulerFlags, error) {
	s, err := Find(scheduler)
	if err != nil {
		return 0, err
	}
	var out lb.SchedulerFlags
	for _, name := range names {
		f := s.flag(name)
		if f == 0 {
			return 0, &FlagError{scheduler, name}
		}
		out |= f
	}
	return out, nil
}

func (s *Scheduler) flag(name string) lb.SchedulerFlags {
	for _, w := range flagWords {
		if s.Flags&w.flag != 0 && name == s.Name+"-"+w.word {
			return w.flag
		}
	}
	return 0
}

// FlagNames returns the words of flags, in ipvsadm's order.
func FlagNames(scheduler string, f lb.SchedulerFlags) []string {
	var out []string
	for _, w := range flagWords {
		if f&w.flag != 0 {
			out = append(out, scheduler+"-"+w.word)
		}
	}
	return out
}

// Takes fails with a *FlagError if there are flags that s does not take.
func (s *Scheduler) Takes(f lb.SchedulerFlags) error {
	f &^= s.Flags
	if f == 0 {
		return nil
	}
	if names := FlagNames(s.Name, f); len(names) > 0 {
		return &FlagError{s.Name, names[0]}
	}
	return &FlagError{s.Name, fmt.Sprintf("%#x", uint8(f))}
}

// hashFlags are the flags of rule Hash that say the same.
func hashFlags(f lb.SchedulerFlags) Flags {
	var out Flags
	if f&lb.SchedulerPort != 0 {
		out |= HashPort
	}
	if f&lb.SchedulerFallback != 0 {
		out |= HashFallback
	}
	return out
}
