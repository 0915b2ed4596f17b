// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/waggle-lb/waggle/sync/file"
)

// checkFile says whether `waggle run` would take a file. It needs no root and
// touches nothing.
func (e *env) checkFile(name, scheduler string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("check services: %w", err)
	}
	cfg, err := file.Parse(name, data, file.Options{DefaultScheduler: scheduler})
	if err != nil {
		return err
	}
	snap, err := cfg.Snapshot()
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
