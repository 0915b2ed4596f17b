// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/ipvsadm"
	"github.com/waggle-lb/waggle/lb"
)

// estimatorTick is how often IPVS looks at its counters to tell rates.
const estimatorTick = 2 * time.Second

// listFlags are the options of ipvsadm -L, by their names there, and the
// interval, which has none.
type listFlags struct {
	views         []bool // as in listViews
	exact, nosort bool
	interval      time.Duration
	frontends     []string // as in frontendFlags
	names         []string // of all of them
}

// listViews are the options that say what is listed of each backend; at most one
// is given.
var listViews = []struct {
	name  string
	view  ipvsadm.View
	usage string
}{
	{"stats", ipvsadm.Statistics, "connections, packets and bytes since the pins were made"},
	{"rate", ipvsadm.Rates, "the same a second, as the mean of --interval"},
	{"thresholds", ipvsadm.Thresholds, "upper and lower thresholds"},
	{"persistent-conn", ipvsadm.PersistentConn, "how many clients affinity keeps at each backend"},
}

// frontendFlags are the options that name a service; at most one is given.
var frontendFlags = []struct {
	name, short string
	protocol    lb.Protocol
}{{"tcp-service", "t", lb.TCP}, {"udp-service", "u", lb.UDP}, {"sctp-service", "", lb.SCTP}}

func (f *listFlags) register(cmd *cobra.Command) {
	f.views, f.frontends = make([]bool, len(listViews)), make([]string, len(frontendFlags))
	own := func(name, usage string) (string, string) {
		f.names = append(f.names, name)
		return name, "with -o ipvsadm: " + usage
	}
	set := cmd.Flags()
	for i, v := range listViews {
		name, usage := own(v.name, v.usage)
		set.BoolVar(&f.views[i], name, false, usage)
	}
	name, usage := own("exact", "numbers of --stats and --rate in full, not cut to K, M, G and T")
	set.BoolVar(&f.exact, name, false, usage)
	name, usage = own("nosort", "backends in the order in which the schedulers see them, not by address")
	set.BoolVar(&f.nosort, name, false, usage)
	name, usage = own("interval", "how long --rate counts, 100ms or more")
	set.DurationVar(&f.interval, name, estimatorTick, usage)
	for i, s := range frontendFlags {
		name, usage := own(s.name, fmt.Sprintf("only the %s service at ADDRESS:PORT, without the title line", s.protocol))
		set.StringVarP(&f.frontends[i], name, s.short, "", usage)
	}
}

// listRequest is what the flags ask for.
type listRequest struct {
	ipvsadm.ListOptions
	interval time.Duration
	frontend *lb.Frontend // nil: all
}

// request reads the flags together.
func (f *listFlags) request(cmd *cobra.Command) (*listRequest, error) {
	r := &listRequest{
		ListOptions: ipvsadm.ListOptions{Exact: f.exact, Unsorted: f.nosort, TableSize: ipvsadm.DefaultTableSize},
		interval:    f.interval,
	}
	view := ""
	for i, v := range listViews {
		if !f.views[i] {
			continue
		}
		if view != "" {
			return nil, fmt.Errorf("both --%s and --%s: write one of them", view, v.name)
		}
		view, r.View = v.name, v.view
	}
	if f.exact && r.View != ipvsadm.Statistics && r.View != ipvsadm.Rates {
		return nil, errors.New("--exact is for numbers that are cut otherwise: write --stats or --rate too")
	}
	if cmd.Flags().Changed("interval") && r.View != ipvsadm.Rates {
		return nil, errors.New("--interval is how long --rate counts: write --rate too")
	}
	if f.interval < 100*time.Millisecond {
		return nil, fmt.Errorf("--interval %s: write 100ms or more, such as %s", f.interval, estimatorTick)
	}
	return r, f.readFrontend(cmd, r)
}

func (f *listFlags) readFrontend(cmd *cobra.Command, r *listRequest) error {
	given := ""
	for i, s := range frontendFlags {
		if !cmd.Flags().Changed(s.name) {
			continue
		}
		if given != "" {
			return fmt.Errorf("both --%s and --%s: write one of them", given, s.name)
		}
		given = s.name
		addr, err := netip.ParseAddrPort(f.frontends[i])
		if err != nil {
			return fmt.Errorf("--%s %q: write an IP address and a port, such as 203.0.113.10:80 or [2001:db8::10]:80", s.name, f.frontends[i])
		}
		r.frontend, r.TableSize = &lb.Frontend{Addr: addr, Protocol: s.protocol}, 0
	}
	return nil
}

// foreign fails if an option of ipvsadm is given for another format.
func (f *listFlags) foreign(cmd *cobra.Command) error {
	for _, name := range f.names {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is an option of ipvsadm: write -o ipvsadm too", name)
		}
	}
	return nil
}
