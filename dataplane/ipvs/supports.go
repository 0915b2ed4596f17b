// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// maxName is how many bytes of a service's name an element's comment has room for.
const maxName = 199

// Supports implements dataplane.Dataplane. What IPVS does, but not quite as was
// asked for, is Differences.
func (d *Dataplane) Supports(svc *lb.Service) error { return supports(svc) }

func supports(svc *lb.Service) error {
	if name := svc.ID.Name; name == "" || len(name) > maxName || strings.ContainsAny(name, "\x00\n") {
		return fmt.Errorf("service %s: the name has %d bytes: write 1 to %d, without NUL or newline", svc.ID, len(name), maxName)
	}
	scheduler, err := sched.Find(svc.Scheduler)
	if err == nil {
		err = scheduler.Takes(svc.SchedulerFlags)
	}
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.ID, err)
	}
	if svc.Affinity.Enabled() && svc.ID.Family == lb.IPv6 && svc.Affinity.Prefix == 0 {
		return fmt.Errorf("service %s: IPVS has no affinity by 0 bits of an IPv6 address: write a mask of 1 to 128", svc.ID)
	}
	for _, b := range svc.Backends {
		if b.Upper >= mark {
			return fmt.Errorf("service %s: backend %s: threshold %d: IPVS takes at most %d here", svc.ID, b.Addr, b.Upper, mark-1)
		}
	}
	for _, f := range svc.Frontends {
		if f.Addr.Port() == 0 {
			if err := supportsAnyPort(svc, f); err != nil {
				return err
			}
		}
	}
	return svc.Check()
}

// supportsAnyPort says whether a frontend of any port can be: IPVS leaves the ports of
// such a service as they are.
func supportsAnyPort(svc *lb.Service, f lb.Frontend) error {
	if f.Restricted {
		return fmt.Errorf("service %s: frontend %s of any port is restricted to source ranges: write each port", svc.ID, f)
	}
	for _, b := range svc.Backends {
		if b.Addr.Port() != 0 {
			return fmt.Errorf("service %s: backend %s: IPVS leads all ports of %s to the same ones of the backend: write port 0", svc.ID, b.Addr, f)
		}
	}
	return nil
}

// Differences says what IPVS does otherwise for a service than it asks for, one
// sentence each; none if it does all of it.
func (*Dataplane) Differences(svc *lb.Service) []string { return differences(svc) }

func differences(svc *lb.Service) (out []string) {
	say := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	local := false
	for _, f := range svc.Frontends {
		local = local || f.Policy == lb.PolicyLocalExternal
	}
	a := svc.Affinity
	say(local, "while a backend is on this machine, its pods and itself get local backends only, at frontends of external policy Local")
	say(a.Enabled() && len(svc.Frontends) > 1, "affinity is each frontend's own: a client may be at another backend by another frontend")
	say(a.Enabled() && a.Quiesced, "a backend of weight 0 gets no new connections of its clients")
	say(a.Enabled() && a.Lapses, "affinity lasts as long as a connection does")
	say(svc.Lost == lb.LostDrop, "connections of a backend that is gone are reset, not dropped")
	say(svc.Lost == lb.LostKeep && svc.Scheduler == "dh", "connections end with their backend's place in the service, as dh would refuse clients until they are over")
	say(svc.Reuse == lb.ReuseNever, "the port of a closed connection picks afresh")
	return out
}
