// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// How long things may take: the first answer of all services, one try of it,
// the daemon's end after SIGTERM, and `waggle cleanup`.
const (
	readyTimeout   = 15 * time.Second
	probeTimeout   = 250 * time.Millisecond
	probeInterval  = 25 * time.Millisecond
	stopTimeout    = 10 * time.Second
	cleanupTimeout = 15 * time.Second
)

// logTail is how many lines of the daemon's log go into an error.
const logTail = 20

// daemon is a `waggle run` in a namespace.
type daemon struct {
	process *netlab.Process
	log     string
}

// startDaemon starts `waggle run`; its log goes to a file. It is a process
// group of its own, so a Ctrl-C at the terminal reaches only the demo, which
// then ends the daemon in its turn.
func startDaemon(ns *netlab.Namespace, exe, services, pinPath, log string) (*daemon, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the process has its own descriptor
	cmd := exec.Command(exe, "run", "--services", services, "--pin-path", pinPath, "--socket-lb", "off")
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := ns.Start(cmd)
	if err != nil {
		return nil, err
	}
	return &daemon{process: p, log: log}, nil
}

// stop ends the daemon. One that ends badly, or has ended already, is an
// error that shows its log.
func (d *daemon) stop() error {
	select {
	case <-d.process.Done():
		return d.explain("waggle run ended by itself", d.process.Wait())
	default:
	}
	if err := d.process.Stop(stopTimeout); err != nil {
		return d.explain("stop waggle run", err)
	}
	return nil
}

// explain makes an error that holds the end of the log. err may be nil.
func (d *daemon) explain(what string, err error) error {
	text := "exit status 0"
	if err != nil {
		text = err.Error()
	}
	return fmt.Errorf("%s: %s; its log ends with\n%s", what, text, tail(d.log, logTail))
}

// tail returns the last lines of a file, indented.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	text := strings.TrimRight(string(b), "\n")
	if text == "" {
		return "  (nothing)"
	}
	all := strings.Split(text, "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}

// waitReady waits until every service has answered every client once: the
// clients' devices get their programs one after the other.
func (d *Demo) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, client := range d.lab.Clients() {
		err := client.Do(func() error {
			for _, s := range d.services {
				if err := d.waitAnswer(ctx, client, s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Demo) waitAnswer(ctx context.Context, client *netlab.Node, s service) error {
	for {
		local := netip.AddrPortFrom(client.Addr(s.vip.Addr().Is6()), d.probe)
		d.probe++
		_, err := visit(ctx, s.protocol, local, s.vip, 0, probeTimeout)
		if err == nil {
			return nil
		}
		select {
		case <-d.daemon.process.Done():
			return errors.New("waggle run ended before its services answered")
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return d.daemon.explain(fmt.Sprintf("service %s/%s does not answer %v after the start", s.vip, s.protocol, readyTimeout), err)
		case <-time.After(probeInterval):
		}
	}
}

// drops returns what `waggle stats` says about packets that were refused or
// dropped, a line for each reason.
func (d *Demo) drops(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, d.opts.Exe, "stats", "-o", "json", "--pin-path", d.pinPath).Output()
	if err != nil {
		return nil, fmt.Errorf("waggle stats: %w", err)
	}
	var stats struct {
		Drops []struct {
			Reason, Meaning string
			Packets         uint64
		}
	}
	if err := json.Unmarshal(out, &stats); err != nil {
		return nil, fmt.Errorf("waggle stats: %w", err)
	}
	var lines []string
	for _, s := range stats.Drops {
		if s.Packets > 0 {
			lines = append(lines, fmt.Sprintf("waggle stats: %d packets of reason %s: %s", s.Packets, s.Reason, s.Meaning))
		}
	}
	return lines, nil
}

// cleanPins runs `waggle cleanup` for a pin path, in a namespace or, if nil,
// in this one, and checks that nothing is left.
func (d *Demo) cleanPins(pinPath string, ns *netlab.Namespace) error {
	if _, err := os.Stat(pinPath); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Not the caller's context: after Ctrl-C is when this matters most.
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, d.opts.Exe, "cleanup", "--pin-path", pinPath)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	run := cmd.Run
	if ns != nil {
		run = func() error { return ns.Run(cmd) }
	}
	err := run()
	if err == nil {
		if _, statErr := os.Stat(pinPath); statErr == nil {
			err = fmt.Errorf("%s is still there", pinPath)
		}
	}
	if err != nil {
		return fmt.Errorf("waggle cleanup --pin-path %s: %w: run it by hand; it said %q", pinPath, err, out.String())
	}
	return nil
}
