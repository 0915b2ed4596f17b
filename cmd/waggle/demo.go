// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/internal/demo"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// demoFlags are the flags of `waggle demo`.
type demoFlags struct {
	weights []uint
	flows   int
	bulkMiB int
	json    bool
	keep    bool
}

func newDemoCommand(e *env) *cobra.Command {
	var flags demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show waggle at work in a network of its own",
		Long: `Build a small network out of network namespaces (clients, a director, real
servers), start ` + "`waggle run`" + ` in the director, show what bpftool sees of one
connection, then send real TCP and UDP over IPv4 and IPv6 and compare what each
server got with what its weight promises, measure rates, and compare a stream byte
by byte both ways. It needs root, touches nothing of the machine's own network,
takes some ten seconds, and removes everything at the end, also after Ctrl-C.

It exits with 1 if anything was not as promised. --json writes one document:
  {apiVersion: waggle.dev/v1alpha1, kind: DemoResult, ok, problems: [text],
   servers: [{name, weight, addresses}],
   distributions: [{scheduler, protocol, family, vip, flows, failed, exact, ok,
                    servers: [{name, got, min, max}]}],
   rates: [{what: tcp-connections|udp-round-trips|tcp-bulk, family, count,
            seconds, perSecond, ok}]}       # tcp-bulk counts bytes, each way`,
		Example: `  waggle demo
  waggle demo --weights 4,2,1,1 --flows 800
  waggle demo --json | jq .ok
  waggle demo --keep`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, e, &flags) },
	}
	f := cmd.Flags()
	f.UintSliceVar(&flags.weights, "weights", []uint{5, 3, 1}, "weights of the real servers, one server for each")
	f.IntVar(&flags.flows, "flows", 90, "TCP connections and UDP flows to count at each service")
	f.IntVar(&flags.bulkMiB, "bulk-mib", 64, "MiB to send each way when measuring the throughput, 1 to 1024")
	f.BoolVar(&flags.json, "json", false, "write the result as JSON instead of tables")
	f.BoolVarP(&flags.keep, "keep", "n", false, "keep network and daemon until Ctrl-C, and say what to try")
	return cmd
}

// options makes demo.Options of the flags.
func (f *demoFlags) options(e *env) (demo.Options, error) {
	stderr, isFile := e.stderr.(*os.File)
	opts := demo.Options{
		Schedulers: sched.Names(),
		Flows:      f.flows,
		BulkBytes:  int64(f.bulkMiB) << 20,
		RateTime:   demo.DefaultRateTime,
		Progress:   e.stderr,
		TTY:        isFile && isTerminal(stderr),
	}
	if f.bulkMiB < 1 || f.bulkMiB > 1024 {
		return opts, fmt.Errorf("--bulk-mib %d: write 1 to 1024", f.bulkMiB)
	}
	for _, w := range f.weights {
		if w > lb.MaxWeight {
			return opts, fmt.Errorf("--weights %d: a weight is 0 to %d", w, lb.MaxWeight)
		}
		opts.Weights = append(opts.Weights, uint16(w))
	}
	return opts, opts.Check()
}

func runDemo(cmd *cobra.Command, e *env, flags *demoFlags) (err error) {
	opts, err := flags.options(e)
	if err != nil {
		return usage(cmd, err)
	}
	if opts.Exe, err = os.Executable(); err != nil {
		return fmt.Errorf("find the waggle binary: %w", err)
	}
	// A closed terminal must not leave the network behind either.
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)

	d, err := demo.Start(ctx, opts)
	if err != nil {
		return demoError(ctx, err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	result, err := measureDemo(ctx, e.stdout, d, flags.json)
	if err != nil {
		return demoError(ctx, err)
	}
	if flags.keep {
		if err := keepDemo(ctx, e, d); err != nil {
			return err
		}
	}
	if !result.OK {
		return fmt.Errorf("the demo saw %d things that are not as promised", len(result.Problems))
	}
	return nil
}

// demoError says it plainly if the reason is the user's signal.
func demoError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("the demo was interrupted")
	}
	return err
}

// measureDemo writes what the demo sees. The verdict comes last, where a
// person looks.
func measureDemo(ctx context.Context, w io.Writer, d *demo.Demo, json bool) (*demo.Result, error) {
	if !json {
		if err := errors.Join(d.WriteNetwork(w), d.WriteMaps(ctx, w)); err != nil {
			return nil, err
		}
	}
	result, err := d.Measure(ctx)
	if err != nil {
		return nil, err
	}
	if json {
		return result, result.WriteJSON(w)
	}
	return result, result.WriteTable(w)
}

// keepDemo waits for a signal, or for the daemon's end.
func keepDemo(ctx context.Context, e *env, d *demo.Demo) error {
	if err := d.WriteExplore(e.stderr); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.Exited():
		return errors.New("waggle run ended while the demo was kept")
	}
}
