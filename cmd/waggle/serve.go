// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/dataplane/ipvs"
	"github.com/waggle-lb/waggle/internal/advise"
	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
	"github.com/waggle-lb/waggle/sync/file"
)

// runDaemon puts source, loop and dataplane together and runs them until ctx
// ends.
func runDaemon(ctx context.Context, e *env, flags *runFlags) (err error) {
	log := flags.kube.proxy.log(e)
	flags.kube.proxy.tell(log)
	// Refused before the kernel is touched, if it is refused.
	if err := cmp.Or(flags.parseServices(), checkCapabilities(capabilities(flags.dataplane))); err != nil {
		return err
	}
	mgr, err := managerOf(os.Getenv, os.Getpid())
	if err != nil {
		return err
	}
	var loop *control.Loop
	srv, err := newServers(e, flags, func() control.Progress { return loop.Progress() }, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.close()) }()
	if flags.services == "" {
		flags.kube.proxy.setUpNode(log)
	}
	dp, err := openDataplane(e, flags, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	srv.choice = dp.choice
	socket := listenAgent(e, flags.pinPath, log) // the pin path is ours: nobody else has it
	defer func() { err = errors.Join(err, closeListener(socket)) }()
	told := newTold(dp, srv.tellService, log)
	if loop, err = control.New(control.Options{Dataplane: told, Logger: log, Window: flags.window(), Observe: srv.wrote}); err != nil {
		return err
	}
	src, err := sourceOf(flags, loop, srv, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	leaving := dp.handover(flags, loop, log)
	defer func() { err = errors.Join(err, leaving.close()) }()
	watch := watchLeftovers(flags, dp, leaving, loop, log)
	tasks := slices.Concat(src.tasks, flags.kube.proxy.tasks(log), []task.Task{loop, watch, &reloadTask{log: log, manager: mgr, reload: src.reload}}, dp.Tasks(), leaving.tasks(),
		srv.tasks(metricsOptions(e, dp, loop, log)), agentTasks(e, socket, aboutDaemon(dp, told, leaving, loop, watch), log))
	if mgr.socket != "" {
		tasks = append(tasks, &notifyTask{manager: mgr, others: tasks, status: func() string { return statusLine(loop.Status()) }, log: log})
	}
	if err := task.Run(ctx, log, tasks...); err != nil {
		return err
	}
	log.Info("stopped; the kernel goes on forwarding, `waggle cleanup` ends that", "pin_path", flags.pinPath)
	return nil
}

// parseServices says what is wrong with the file of services, if there is one.
func (f *runFlags) parseServices() error {
	if f.services == "" {
		return nil
	}
	_, err := parseFile(f.services, f.scheduler)
	return err
}

// ebpf are the settings of the dataplane; group is the control group of --socket-lb.
func (f *runFlags) ebpf(group string, log *slog.Logger) ebpf.Options {
	return ebpf.Options{
		PinPath: f.pinPath, Log: log, ExcludeDevices: f.excludeDevices, MasqueradePorts: f.ports, Timeouts: f.timeouts,
		Limits: f.limits, Sizes: f.sizes, Drain: f.drain,
		XDP: f.xdpMode(), Filter: takeover.ForwardFilter,
		Cgroup: group, HostSockets: f.sockets.lb == "host", RefuseBinds: f.sockets.binds == "refuse",
	}
}

// window is the least time from one write to the kernel to the next; 0: the loop's default.
func (f *runFlags) window() time.Duration {
	if f.services != "" {
		return 0
	}
	return f.kube.proxy.settings.MinSyncPeriod
}

// source is where services come from.
type source struct {
	tasks []task.Task
	// reload reads everything anew; what it returns is closed when that is done.
	reload func() (done <-chan struct{})
	close  func() error
}

func sourceOf(flags *runFlags, loop *control.Loop, srv *servers, log *slog.Logger) (source, error) {
	if flags.services == "" {
		return apiServer(&flags.kube, loop, srv, log)
	}
	return fileSource(flags, loop, srv.choice.name == ipvs.Name, log)
}

// apiServer follows one. Advice on addresses is for those who choose them: VIPs of a
// cluster are on no device, and need no route.
func apiServer(flags *kubeFlags, loop *control.Loop, srv *servers, log *slog.Logger) (source, error) {
	src, err := flags.source(srv.deliver(loop.Source("API server")), log)
	if err != nil {
		return source{}, err
	}
	srv.source = src
	nothing := func() <-chan struct{} { // watches tell all there is
		done := make(chan struct{})
		close(done)
		return done
	}
	return source{[]task.Task{src}, nothing, func() error { return nil }}, nil
}

func fileSource(flags *runFlags, loop *control.Loop, assigns bool, log *slog.Logger) (source, error) {
	adviser, err := advise.New(log, assigns)
	if err != nil {
		return source{}, err
	}
	apply := loop.Source("file " + flags.services)
	src, err := file.NewSource(file.SourceOptions{
		Options: file.Options{DefaultScheduler: flags.scheduler},
		Path:    flags.services,
		Logger:  log,
		Out: func(snap *lb.Snapshot) {
			apply(snap)
			adviser.Observe(snap)
		},
	})
	if err != nil {
		return source{}, errors.Join(err, adviser.Close())
	}
	return source{[]task.Task{src, adviser}, src.Reload, adviser.Close}, nil
}
