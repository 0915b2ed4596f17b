// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/info"
)

// supports is Dataplane.Supports: what can be said without compiling.
func supports(svc *lb.Service) error {
	if name := svc.ID.Name; len(name) > info.MaxName || strings.Contains(name, "\x00") {
		return fmt.Errorf("service %s: the name has %d bytes: write at most %d, without NUL", svc.ID, len(name), info.MaxName)
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

// supportsRun says whether the kernel can pick from a run.
func supportsRun(svc *lb.Service, run *sched.Run) error {
	if n := len(run.Slots); run.Rule == sched.Least && n > int(bpf.LBLimitsMAX_LEAST) {
		return fmt.Errorf("service %s: scheduler %s takes at most %d backends of weight 1 or more, there are %d: write rr or wrr",
			svc.ID, svc.Scheduler, bpf.LBLimitsMAX_LEAST, n)
	}
	return nil
}
