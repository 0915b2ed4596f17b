// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// How much of a map's dump is shown, and how long bpftool may take to begin.
const (
	dumpLines   = 16
	dumpTimeout = 5 * time.Second
)

// WriteMaps writes the first lines of what bpftool says about the flows and
// the VIPs: the kernel's maps are readable by anybody's tools. Without bpftool
// it is a note to the progress writer.
func (d *Demo) WriteMaps(ctx context.Context, w io.Writer) error {
	bpftool, err := exec.LookPath("bpftool")
	if err != nil {
		d.progress.note("bpftool is not installed, so no maps are shown; Debian has it in the package bpftool")
		return nil
	}
	for _, m := range []string{"flows", "config/vips"} {
		if err := dump(ctx, w, bpftool, filepath.Join(d.pinPath, m)); err != nil {
			return err
		}
	}
	return nil
}

// dump writes the first lines of a dump and then ends bpftool: the rates have
// left tens of thousands of flows.
func dump(ctx context.Context, w io.Writer, bpftool, pin string) error {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, bpftool, "map", "dump", "pinned", pin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintf(w, "$ bpftool map dump pinned %s\n", pin)
	lines := bufio.NewScanner(out)
	n := 0
	for n < dumpLines && lines.Scan() {
		fmt.Fprintln(w, lines.Text())
		n++
	}
	more := lines.Scan()
	if more {
		fmt.Fprintln(w, "...")
		cancel()
	}
	fmt.Fprintln(w)
	// Cut short on purpose is no error; ended badly by itself is.
	if err := cmd.Wait(); err != nil && !more {
		return fmt.Errorf("bpftool map dump pinned %s: %w: %s", pin, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
