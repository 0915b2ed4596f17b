// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/internal/sysctl"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/sync/kube/proxyconfig"
)

// nodeSettings are what a configuration asks for of this machine. oom is of this
// process alone.
func nodeSettings(c *proxyconfig.Configuration, s *proxyconfig.Settings, cpus int) (machine, oom []sysctl.Setting) {
	machine = sysctl.Conntrack{
		MaxPerCore: int(*c.Conntrack.MaxPerCore), Min: int(*c.Conntrack.Min),
		Established: c.Conntrack.TCPEstablishedTimeout.Duration, CloseWait: c.Conntrack.TCPCloseWaitTimeout.Duration,
		UDP: c.Conntrack.UDPTimeout.Duration, UDPStream: c.Conntrack.UDPStreamTimeout.Duration, Liberal: c.Conntrack.TCPBeLiberal,
	}.Settings(cpus)
	if s.StrictARP {
		machine = append(machine, sysctl.Sysctl("net/ipv4/conf/all/arp_ignore", 1), sysctl.Sysctl("net/ipv4/conf/all/arp_announce", 2))
	}
	if c.OOMScoreAdj != nil {
		oom = append(oom, sysctl.Setting{Path: "/proc/self/oom_score_adj", Value: int(*c.OOMScoreAdj)})
	}
	return machine, oom
}

// setUp sets them. What cannot be is a warning, as forwarding does not depend on any of
// it. It returns what this kernel does not have, and what was wrong with the others.
func setUp(settings []sysctl.Setting, log *slog.Logger) (missing []sysctl.Setting, err error) {
	for _, s := range settings {
		changed, e := s.Set()
		switch {
		case changed:
			log.Info("set", "setting", s.String())
		case errors.Is(e, fs.ErrNotExist):
			log.Warn("this machine is not set up as the configuration says", "error", e)
			missing = append(missing, s)
		case e != nil:
			log.Warn("this machine is not set up as the configuration says", "error", e)
			err = errors.Join(err, e)
		}
	}
	return missing, err
}

// setUpNode does all of it, for the daemon.
func (f *proxyFlags) setUpNode(log *slog.Logger) {
	cpus, err := sysctl.CPUs()
	if err != nil {
		log.Warn("conntrack.maxPerCore counts for one CPU", "error", err)
		cpus = 1
	}
	machine, oom := nodeSettings(f.config, &f.settings, cpus)
	f.missing, _ = setUp(append(machine, oom...), log) // logged
}

// initialize is --init-only: it fails if something is not as it is to be.
func (f *proxyFlags) initialize(log *slog.Logger) error {
	cpus, err := sysctl.CPUs()
	if err != nil {
		return err
	}
	machine, _ := nodeSettings(f.config, &f.settings, cpus)
	_, err = setUp(machine, log)
	return err
}

// settingsEvery is how often what the kernel did not have is tried again: it has it once
// somebody loads the module.
const settingsEvery = 10 * time.Second

// settingsTask sets what the kernel has later than the daemon.
type settingsTask struct {
	task.Readiness
	missing []sysctl.Setting
	every   time.Duration
	log     *slog.Logger
}

func (*settingsTask) String() string { return "settings of this machine" }

func (t *settingsTask) Run(ctx context.Context) error {
	t.SetReady()
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for len(t.missing) > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		there := slices.DeleteFunc(slices.Clone(t.missing), func(s sysctl.Setting) bool {
			_, err := os.Stat(s.Path)
			return err != nil
		})
		t.missing = slices.DeleteFunc(t.missing, func(s sysctl.Setting) bool { return slices.Contains(there, s) })
		again, _ := setUp(there, t.log) // logged
		t.missing = append(t.missing, again...)
	}
	return nil
}
