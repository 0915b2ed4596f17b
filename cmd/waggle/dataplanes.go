// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/dataplane/ipvs"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

const dataplaneFlag = "dataplane"

// auto takes ebpf, unless a probe says why not.
const auto = "auto"

// dataplaneWords are the values of --dataplane.
var dataplaneWords = []string{auto, ebpf.Name, ipvs.Name}

func registerDataplane(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, dataplaneFlag, auto,
		"who forwards: ebpf; ipvs, the kernel's own, which takes no more than CAP_NET_ADMIN; or auto: ebpf, unless a probe of the kernel says why not, then ipvs")
	complete(cmd, dataplaneFlag, cobra.FixedCompletions(dataplaneWords, cobra.ShellCompDirectiveNoFileComp))
}

// ofEBPF are flags that say nothing to IPVS.
var ofEBPF = []string{
	"affinity-max", "backends-max", "cgroup", "direct-max", "exclude-devices", "flows-max", "flows-min", "fragments-max", "half-open-max",
	"held-fragments-max", "masquerade-ports", "nodeport-bind", "services-max", "slots-max", "socket-lb", "vips-max", xdpFlag,
}

// checkDataplane refuses an unknown word, and flags that mean nothing to ipvs.
func checkDataplane(word string, flags *pflag.FlagSet) error {
	if !slices.Contains(dataplaneWords, word) {
		return fmt.Errorf("--%s %q: write %s", dataplaneFlag, word, strings.Join(dataplaneWords, ", "))
	}
	for _, name := range ofEBPF {
		if word == ipvs.Name && flags.Changed(name) {
			return fmt.Errorf("--%s is for --%s %s or %s: leave it out", name, dataplaneFlag, auto, ebpf.Name)
		}
	}
	return nil
}

// forwarder is a dataplane as the daemon runs it.
type forwarder interface {
	dataplane.Dataplane
	Tasks() []task.Task
	Status() (dataplane.Status, error)
}

// serving is the dataplane that was chosen.
type serving struct {
	forwarder
	choice
	// behind tells it who translates behind it.
	behind func(dataplane.Behind) error
	// differences says what it does otherwise than a service asks for.
	differences func(*lb.Service) []string
	// old is what served before, named former; nil: nothing did.
	old    leaving
	former string
}

// choice is which dataplane, and why: in a word and for people.
type choice struct{ name, reason, why string }

// fellBack reports whether auto took what it takes last.
func (c choice) fellBack() bool { return c.name == ipvs.Name && c.reason != "flag" }

// probes are what a choice depends on.
type probes struct {
	running func() bool  // the programs run here already
	cgroup  func() error // whose sockets are led
	ebpf    func() error // the kernel
}

// choose says who forwards. What auto finds missing is no error.
func choose(word string, p probes) choice {
	if word != auto {
		return choice{word, "flag", fmt.Sprintf("--%s says so", dataplaneFlag)}
	}
	instead := func(reason string, err error) choice {
		return choice{ipvs.Name, reason, fmt.Sprintf("--%s %s finds that ebpf cannot: %v", dataplaneFlag, auto, err)}
	}
	if err := p.cgroup(); err != nil {
		return instead("cgroup", err)
	}
	if p.running() {
		return choice{ebpf.Name, "running", fmt.Sprintf("--%s %s takes it where it can, and its programs run here already", dataplaneFlag, auto)}
	}
	if err := p.ebpf(); err != nil {
		reason := "programs"
		if o := (*ebpf.Obstacle)(nil); errors.As(err, &o) {
			reason = o.What
		}
		return instead(reason, err)
	}
	return choice{ebpf.Name, "probe", fmt.Sprintf("--%s %s takes it where it can, and the kernel takes the programs", dataplaneFlag, auto)}
}

// openDataplane makes the dataplane that is asked for, and takes hold of the other one
// if that is here.
func openDataplane(e *env, flags *runFlags, log *slog.Logger) (_ *serving, err error) {
	group, groupErr := flags.sockets.root()
	c := choose(flags.dataplane, probes{
		running: func() bool { return ebpf.Exists(flags.pinPath) }, cgroup: func() error { return groupErr }, ebpf: ebpf.Probe,
	})
	place := placeOf(e.runDir, flags.pinPath)
	s := &serving{choice: c}
	if c.name == ebpf.Name {
		if groupErr != nil {
			return nil, groupErr
		}
		err = s.openEBPF(flags.ebpf(group, log), place)
	} else {
		err = s.openIPVS(flags.ipvs(place, log), flags.ebpf(group, log))
	}
	if err != nil && c.fellBack() {
		err = fmt.Errorf("neither dataplane can forward here: %s; nor can ipvs: %w", c.why, err)
	}
	if err != nil {
		return nil, err
	}
	log.Info("dataplane", "name", c.name, "why", c.why)
	return s, nil
}

func (s *serving) openEBPF(opts ebpf.Options, place ipvs.Place) error {
	if place.Exists() {
		old, err := ipvs.Leave(place)
		if err != nil {
			return fmt.Errorf("take over from IPVS: %w", err)
		}
		s.old, s.former = old, ipvs.Name
	}
	d, err := ebpf.New(opts)
	if err != nil {
		return errors.Join(err, s.closeOld())
	}
	s.forwarder, s.behind = d, d.SetBehind
	s.differences = func(*lb.Service) []string { return nil }
	return nil
}

func (s *serving) openIPVS(opts ipvs.Options, other ebpf.Options) error {
	if ebpf.Exists(other.PinPath) {
		other.Cgroup = "" // no more sockets are led
		old, err := ebpf.Leave(other)
		if err != nil {
			return fmt.Errorf("take over from the programs of %s: %w", other.PinPath, err)
		}
		s.old, s.former = old, ebpf.Name
	}
	d, err := ipvs.New(opts)
	if err != nil {
		return errors.Join(err, s.closeOld())
	}
	s.forwarder, s.differences = d, d.Differences
	s.behind = func(dataplane.Behind) error { return nil } // it is in the stack itself
	return nil
}

func (s *serving) closeOld() error {
	if s.old == nil {
		return nil
	}
	return s.old.Close()
}

// ipvs are the settings of that dataplane.
func (f *runFlags) ipvs(place ipvs.Place, log *slog.Logger) ipvs.Options {
	return ipvs.Options{Place: place, Log: log, TCP: f.timeouts.TCP, TCPFin: f.timeouts.TCPFin, UDP: f.timeouts.UDP}
}

// placeOf is where a daemon of a pin path keeps IPVS: below dir is its lock.
func placeOf(dir, pinPath string) ipvs.Place {
	socket := socketOf(dir, pinPath)
	return ipvs.Place{Owner: absolute(pinPath), Lock: strings.TrimSuffix(socket, ".sock") + ".ipvs.lock"}
}

// openReader opens what forwards at a pin path for reading: what is pinned, or if that
// is nothing, or leaves, what IPVS has.
func openReader(dir, pinPath string) (reader, error) {
	place := placeOf(dir, pinPath)
	pins, err := ebpf.OpenPins(pinPath)
	none := errors.Is(err, dataplane.ErrNotRunning)
	switch {
	case err != nil && !none:
		return nil, err
	case none && !place.Exists():
		return nil, fmt.Errorf("open %s: %w", pinPath, dataplane.ErrNotRunning)
	case err == nil && !place.Exists():
		return pins, nil
	case err == nil:
		idle, err := leadsNobody(pins)
		if err != nil {
			return nil, errors.Join(err, pins.Close())
		}
		if !idle {
			return pins, nil
		}
		if err := pins.Close(); err != nil {
			return nil, err
		}
	}
	r, err := ipvs.OpenReader(place)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// leadsNobody reports whether what is pinned has no frontends: another dataplane
// serves, then.
func leadsNobody(pins *ebpf.Pins) (bool, error) {
	snap, err := pins.Read()
	if err != nil {
		return false, err
	}
	for svc := range snap.All() {
		if len(svc.Frontends) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// cleanupBoth removes both dataplanes of a pin path.
func cleanupBoth(dir, pinPath string) (removed []string, err error) {
	removed, err = ebpf.Cleanup(pinPath)
	if err != nil {
		return removed, err
	}
	place := placeOf(dir, pinPath)
	more, err := ipvs.Cleanup(place)
	if err == nil {
		os.Remove(place.Lock) // if there is one: nobody holds it
	}
	return append(removed, more...), err
}

// capabilities are those that a dataplane needs: of auto those of ebpf.
func capabilities(word string) []capability {
	if word == ipvs.Name {
		return needed[1:2]
	}
	return needed
}
