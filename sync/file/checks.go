// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// The bounds of an affinity's timeout are those of ipvsadm: -p takes as much.
const (
	minAffinity     = time.Second
	maxAffinity     = lb.MaxAffinity
	defaultAffinity = 360 * time.Second // of a -p without a number
)

// maxThreshold is the largest threshold that a backend can have.
const maxThreshold = math.MaxUint32

// parseNumber reads a number in decimal; what names it.
func parseNumber(what, s string, least, most int64) (int64, *problem) {
	n, err := strconv.ParseInt(s, 10, 64)
	bounds := fmt.Sprintf("write %d to %d", least, most)
	switch {
	case len(s) > 1 && s[0] == '0' && err == nil:
		return 0, &problem{fmt.Sprintf("%s %q begins with 0, which is octal to some", what, s), "write it without"}
	case errors.Is(err, strconv.ErrSyntax):
		return 0, &problem{fmt.Sprintf("%s %q is not a whole number", what, s), bounds}
	case err != nil || n < least || n > most:
		return 0, &problem{fmt.Sprintf("%s %s is out of range", what, s), bounds}
	}
	return n, nil
}

// checkPorts returns what is wrong with a backend's port behind a frontend. A
// port cannot change in SCTP: its checksum covers the whole packet. And a
// backend that keeps the port of the packet is for frontends of any port.
func checkPorts(f lb.Frontend, backend netip.AddrPort) *problem {
	port := f.Addr.Port()
	switch {
	case backend.Port() == port:
		return nil
	case f.Protocol == lb.SCTP:
		return &problem{
			fmt.Sprintf("backend %s has another port than %s, and ports of SCTP cannot be translated", backend, f),
			fmt.Sprintf("write %s", netip.AddrPortFrom(backend.Addr(), port)),
		}
	case backend.Port() == 0:
		return &problem{
			fmt.Sprintf("backend %s keeps the port that the client asked for (0), and frontend %s has one", backend, f),
			fmt.Sprintf("write a port, such as %s", netip.AddrPortFrom(backend.Addr(), port)),
		}
	}
	return nil
}

// checkThresholds returns what is wrong with two thresholds together. upper
// and lower are how the format writes them: "upperThreshold: ", "-x ".
func checkThresholds(b *lb.Backend, upper, lower string) *problem {
	switch {
	case b.Lower <= b.Upper:
		return nil
	case b.Upper == 0:
		return &problem{
			fmt.Sprintf("lower threshold %d without an upper one", b.Lower),
			fmt.Sprintf("write %s%d or more beside it, or remove it", upper, b.Lower),
		}
	}
	return &problem{
		fmt.Sprintf("lower threshold %d is above the upper one, %d", b.Lower, b.Upper),
		fmt.Sprintf("write %s%d or less", lower, b.Upper),
	}
}

// checkScheduler returns what is wrong with a scheduler's name.
func checkScheduler(name string) *problem {
	_, err := sched.Find(name)
	return problemOf(err)
}

// parseFlags reads the flags of a scheduler that checkScheduler takes.
func parseFlags(scheduler string, names []string) (lb.SchedulerFlags, *problem) {
	f, err := sched.ParseFlags(scheduler, names)
	var refused *sched.FlagError
	if !errors.As(err, &refused) {
		return f, problemOf(err)
	}
	remedy := "remove it"
	if s, err := sched.Find(scheduler); err == nil && s.Flags != 0 {
		remedy = "write " + strings.Join(sched.FlagNames(scheduler, s.Flags), " or ")
	}
	return 0, &problem{fmt.Sprintf("scheduler %s has no flag %q", scheduler, refused.Flag), remedy}
}

// problemOf takes an error of package sched apart, which says what to write
// after its first colon.
func problemOf(err error) *problem {
	if err == nil {
		return nil
	}
	what, remedy, _ := strings.Cut(err.Error(), ": ")
	return &problem{what, remedy}
}

// checkLength returns what is wrong with how many backends a service has.
func checkLength(svc *lb.Service) *problem {
	n := len(svc.Backends)
	if n <= sched.MaxBackends {
		return nil
	}
	return &problem{fmt.Sprintf("%d backends of %s", n, svc.ID.Family), fmt.Sprintf("write at most %d", sched.MaxBackends)}
}
