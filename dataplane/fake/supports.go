// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// The limits of the eBPF dataplane.
const (
	maxName  = 199     // bytes of a service's name
	maxLeast = 1 << 14 // backends that a scheduler compares
)

// Supports implements dataplane.Dataplane: it takes what the eBPF dataplane does.
func (d *Dataplane) Supports(svc *lb.Service) error {
	if name := svc.ID.Name; len(name) > maxName || strings.Contains(name, "\x00") {
		return fmt.Errorf("service %s: the name has %d bytes: write at most %d, without NUL", svc.ID, len(name), maxName)
	}
	scheduler, err := sched.Find(svc.Scheduler)
	if err == nil {
		err = scheduler.Takes(svc.SchedulerFlags)
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	return svc.Check()
}

// supportsRun says whether the eBPF dataplane could pick from a run.
func supportsRun(svc *lb.Service, run *sched.Run) error {
	if n := len(run.Slots); run.Rule == sched.Least && n > maxLeast {
		return fmt.Errorf("scheduler %s takes at most %d backends of weight 1 or more, there are %d: write rr or wrr", svc.Scheduler, maxLeast, n)
	}
	return nil
}
