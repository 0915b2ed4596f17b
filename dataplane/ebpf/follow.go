// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/loader"
)

// pinsEvery is the least time between two looks at all pins, of which nothing
// tells when one goes: the next call after that looks, ten seconds later at most.
const pinsEvery = 5 * time.Second

// follower brings the programs to the devices that should have them, as they
// come and go, keeps node_addrs and what devices are masqueraded with, and puts
// back what others take away.
type follower struct {
	task.Readiness
	d *Dataplane
}

func (*follower) String() string { return "devices and addresses" }

func (t *follower) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	return t.d.watcher.Run(ctx, func(s nlx.State) {
		if t.d.follow(s) {
			t.SetReady()
		}
	})
}

// following is what a follower knows, and has done since the process began.
type following struct {
	begun   bool      // the first state was followed: what comes is a change
	pinsAt  time.Time // of the last look at the pins,
	pinsErr error     // which gave this
	// mended and followed count by what it was, broken is what is out of order
	// now and cannot be mended.
	mended, followed map[string]uint64
	broken           []string
	xdp              map[int]loader.XDP // by index of the device
}

func newFollowing() following {
	return following{
		mended:   map[string]uint64{string(loader.Program): 0, string(loader.Qdisc): 0, string(loader.Pin): 0},
		followed: map[string]uint64{"device": 0, "address": 0},
	}
}

// follow brings everything in line with the state, and reports whether nothing
// is left out of order.
func (d *Dataplane) follow(s nlx.State) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.Sub(d.following.pinsAt) >= pinsEvery {
		d.following.pinsAt, d.following.pinsErr = now, d.repin()
	}
	added, removed, err := followAddrs(d.state, s.Addrs)
	if d.following.begun {
		d.noteAddrs(added, removed)
	}
	changes, derr := d.loader.SetDevices(s.Links)
	d.noteXDP()
	ofSockets, serr := d.loader.SetSockets()
	for _, c := range slices.Concat(changes, ofSockets) {
		d.noteChange(c)
	}
	err = errors.Join(d.following.pinsErr, err, followDevices(d.state, s, d.loader.XDP()), derr, serr)
	d.following.begun = true
	d.following.broken = complain(d.log, d.following.broken, err)
	return err == nil
}

// repin puts back pins that are gone.
func (d *Dataplane) repin() error {
	pins, err := d.loader.Repin()
	for _, pin := range pins {
		d.following.mended[string(loader.Pin)]++
		d.log.Warn("somebody removed a pin: it is there again", "pin", pin)
	}
	return err
}

func (d *Dataplane) noteAddrs(added, removed []netip.Addr) {
	d.following.followed["address"] += uint64(len(added) + len(removed))
	for _, a := range added {
		d.log.Info("address added", "address", a.String())
	}
	for _, a := range removed {
		d.log.Info("address removed", "address", a.String())
	}
}

func (d *Dataplane) noteChange(c loader.Change) {
	log := d.log.With("device", c.Device, "hook", c.Hook)
	if c.Cgroup != "" {
		log = d.log.With("cgroup", c.Cgroup, "hook", c.Hook)
	}
	if c.Mended != "" {
		d.following.mended[string(c.Mended)]++
		log.Warn("something took a program from its place: it is there again", "gone", string(c.Mended))
		return
	}
	if d.following.begun && c.Hook == "ingress" {
		d.following.followed["device"]++
	}
	if c.Attached {
		log.Info("program attached")
	} else {
		log.Info("program detached")
	}
}

// complain logs each line of an error that was not there before, and returns
// the lines.
func complain(log *slog.Logger, before []string, err error) (now []string) {
	if err == nil {
		return nil
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(before, line) && !slices.Contains(now, line) {
			log.Error("something is out of order that waggle cannot mend", "error", line)
		}
		now = append(now, line)
	}
	return now
}

func (f *following) counts() (mended, followed map[string]uint64, broken []string) {
	return maps.Clone(f.mended), maps.Clone(f.followed), slices.Clone(f.broken)
}
