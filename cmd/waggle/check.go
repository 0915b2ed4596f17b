// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/file"
)

// checkFile says whether `waggle run` would take a file. It needs no root and
// touches nothing.
func (e *env) checkFile(name, scheduler string) error {
	snap, err := parseFile(name, scheduler)
	if err != nil {
		return err
	}
	backends := 0
	for svc := range snap.All() {
		backends += len(svc.Backends)
	}
	fmt.Fprintf(e.stdout, "%s: %d services, %d backends: good\n", name, snap.Len(), backends)
	return nil
}

// parseFile reads a file of services, or says all that is wrong with it.
func parseFile(name, scheduler string) (*lb.Snapshot, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	cfg, err := file.Parse(name, data, file.Options{DefaultScheduler: scheduler})
	if err != nil {
		return nil, err
	}
	return cfg.Snapshot()
}
