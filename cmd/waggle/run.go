// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// defaultScheduler is for YAML services that name none.
const defaultScheduler = "rr"

// runFlags are the flags of `waggle run`.
type runFlags struct {
	services       string
	kube           kubeFlags
	sockets        socketFlags
	check          string
	pinPath        string
	scheduler      string
	schedulerFlags lb.SchedulerFlags // with kube-proxy's default alone
	excludeDevices []string
	xdp            string // a loader.XDPMode; "": as the source says
	masquerade     string // as written
	ports          ebpf.PortRange
	timeouts       ebpf.Timeouts
	limits         ebpf.Limits
	sizes          ebpf.Sizes
	drain          time.Duration
	dataplane      string // a word of dataplaneWords
	listen         listenFlags
	leftovers      string // of kube-proxy: a takeover.Mode
}

func newRunCommand(e *env) *cobra.Command { return runCommand(e, new(runFlags)) }

// runCommand puts what is on the command line into flags.
func runCommand(e *env, flags *runFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Forward what a file of services or an API server says, and follow its changes",
		Long: `Load the eBPF programs, attach them to the devices of this network namespace (or make
virtual services of the kernel's IPVS: --dataplane), and forward what a Kubernetes API
server's Services say (--kubeconfig, or in a pod), or what a file says (--services). The
file is YAML of kind ServiceList, or the text that "ipvsadm -S -n" prints; which one it
is shows from its content. It is watched, and SIGHUP rereads it. A file with an error
changes nothing: the last good state stays, and the log says file and line.

SIGINT and SIGTERM end the daemon, not the forwarding: the kernel goes on with what
it has, and "waggle cleanup" ends that.`,
		Example: `  waggle run --check services.yaml
  waggle run --services services.yaml
  waggle run --kubeconfig /etc/waggle/kubeconfig --cluster-cidr 10.244.0.0/16
  waggle run --config /var/lib/kube-proxy/config.conf
  ipvsadm -S -n > rules && waggle run --services rules`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.kube.proxy.read(cmd.Flags()); err != nil {
				return err
			}
			if err := flags.kube.proxy.follow(cmd.Flags()); err != nil {
				return usage(cmd, err)
			}
			if done, err := flags.once(cmd.Context(), e); done {
				return err
			}
			if err := cmp.Or(checkDataplane(flags.dataplane, cmd.Flags()), flags.validate()); err != nil {
				return usage(cmd, err)
			}
			if flags.check != "" {
				return e.checkFile(flags.check, flags.scheduler)
			}
			return runDaemon(cmd.Context(), e, flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.services, "services", "", "file of services to forward: YAML, or the text of ipvsadm -S -n")
	f.StringVar(&flags.check, "check", "", "only check this file, without root, and say what is wrong with it")
	flags.kube.register(cmd, e.kubeProxy)
	flags.sockets.register(cmd)
	registerPinPath(cmd, &flags.pinPath)
	registerDataplane(cmd, &flags.dataplane)
	f.StringVar(&flags.scheduler, "scheduler", defaultScheduler,
		"scheduler of services that name none, but for ipvsadm's text: "+strings.Join(sched.Names(), ", "))
	f.StringSliceVar(&flags.excludeDevices, "exclude-devices", nil,
		"leave these devices alone: names or patterns such as docker*, comma separated")
	registerXDP(cmd, &flags.xdp)
	f.StringVar(&flags.masquerade, "masquerade-ports", fmt.Sprintf("%d-%d", ebpf.DefaultMasqueradePorts.First, ebpf.DefaultMasqueradePorts.Last),
		"ports that masquerading may use, less those of the kernel's own connections and reserved ones")
	f.DurationVar(&flags.drain, "drain-timeout", ebpf.DefaultDrain, "how long connections go on that another dataplane, or a version with another layout of maps, has made")
	registerLeftovers(cmd, &flags.leftovers)
	registerLimits(cmd, &flags.limits)
	registerSizes(cmd, &flags.sizes)
	flags.listen.register(cmd)
	complete(cmd, "scheduler", cobra.FixedCompletions(sched.Names(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// validate finds what can be known to be wrong before anything is done, and
// reads what has more than one part.
func (f *runFlags) validate() error {
	f.followProxy()
	if _, err := sched.Find(f.scheduler); err != nil {
		return fmt.Errorf("--scheduler: %w", err)
	}
	if f.check == "" {
		if err := f.checkSource(); err != nil {
			return err
		}
	}
	if f.services == "" {
		if err := f.kube.validate(f.scheduler, f.schedulerFlags); err != nil {
			return err
		}
	}
	var err error
	if f.ports, err = ebpf.ParsePortRange(f.masquerade); err != nil {
		return fmt.Errorf("--masquerade-ports: %w", err)
	}
	if err := f.timeouts.Check(); err != nil {
		return err
	}
	if f.drain <= 0 {
		return fmt.Errorf("--drain-timeout %v: write a time that is not zero, 1h say", f.drain)
	}
	if err := cmp.Or(f.limits.Check(), f.sizes.Check(), f.sockets.validate(), checkXDP(f.xdp)); err != nil {
		return err
	}
	if err := f.listen.validate(f.services == "" && f.check == ""); err != nil {
		return err
	}
	if _, err := takeover.ParseMode(f.leftovers); err != nil {
		return fmt.Errorf("--%s: %w", leftoversFlag, err)
	}
	for _, pattern := range f.excludeDevices {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("--exclude-devices %q: %w: write a name, or a pattern with * ? [abc]", pattern, err)
		}
	}
	return nil
}

// followProxy takes what kube-proxy's configuration says of more than Kubernetes.
func (f *runFlags) followProxy() {
	c, settings := f.kube.proxy.config, &f.kube.proxy.settings
	if f.services != "" || f.check != "" {
		f.timeouts = ebpf.Timeouts{TCP: c.IPVS.TCPTimeout.Duration, TCPFin: c.IPVS.TCPFinTimeout.Duration, UDP: c.IPVS.UDPTimeout.Duration}
		return
	}
	f.timeouts = ebpf.Timeouts{TCP: cmp.Or(settings.TCP, kubeTimeout), TCPFin: settings.TCPFin, UDP: settings.UDP}
	if settings.Scheduler != "" && !f.kube.given("scheduler") {
		f.scheduler = settings.Scheduler
		if f.scheduler == "mh" { // kube-proxy has it hash ports as well
			f.schedulerFlags = lb.SchedulerPort
		}
	}
}
