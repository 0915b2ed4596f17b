// SPDX-License-Identifier: Apache-2.0

// Command waggle is an eBPF L4 load balancer: one binary with verbs that run
// it (run, demo), read what the kernel holds (services, backends, flows,
// clients, stats) and remove it (cleanup). Data goes to stdout, everything else
// to stderr; it exits with 0, with 1 if the work failed, or with 2 if it was
// called wrongly.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks, a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	e := newEnv()
	args := e.commandLine(os.Args)
	os.Exit(execute(ctx, e, args))
}
