// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// dumpTimeout bounds one run of bpftool.
const dumpTimeout = 5 * time.Second

// WriteMaps makes one connection and writes what bpftool says about it and
// about its VIP: the kernel's maps are readable by anybody's tools. It is
// called before Measure, whose flows are many. Without bpftool it is a note to
// the progress writer.
func (d *Demo) WriteMaps(ctx context.Context, w io.Writer) error {
	bpftool, err := exec.LookPath("bpftool")
	if err != nil {
		d.progress.note("bpftool is not installed, so no maps are shown; Debian has it in the package bpftool")
		return nil
	}
	vip := d.find(d.opts.Schedulers[0], lb.TCP, lb.IPv4).vip
	client, port := d.lab.Clients()[0], d.probe
	d.probe++
	d.progress.step("one connection, as bpftool sees it")
	local := netip.AddrPortFrom(client.V4, port)
	err = client.Do(func() error {
		_, err := visit(ctx, lb.TCP, local, vip, uint64(port), flowTimeout)
		return err
	})
	if err != nil {
		return fmt.Errorf("connect from %s to %s: %w", local, vip, err)
	}
	d.progress.done()
	for _, m := range []struct {
		pin, what string
		want      []string // of the text of an entry, one of these
		n         int
	}{
		{"flows", fmt.Sprintf("the two entries of %s -> %s", local, vip), []string{line("sport", port), line("dport", port)}, 2},
		{"config/vips", fmt.Sprintf("one of the entries of port %d", vip.Port()), []string{line("port", vip.Port())}, 1},
	} {
		entries, err := dump(ctx, bpftool, filepath.Join(d.pinPath, m.pin), m.want)
		if err != nil {
			return err
		}
		if len(entries) < m.n {
			return fmt.Errorf("bpftool shows %d entries with %s in map %s, want %d", len(entries), strings.Join(m.want, " or "), m.pin, m.n)
		}
		fmt.Fprintf(w, "$ bpftool map dump pinned %s     # %s\n", filepath.Join(d.pinPath, m.pin), m.what)
		fmt.Fprintf(w, "[{%s}\n]\n", strings.Join(entries[:m.n], separator))
	}
	_, err = fmt.Fprintf(w, "Position 1 is client to VIP, 4 backend to client; addr and port of a value are what that\n"+
		"packet's destination (1) or source (4) becomes. README.md explains every field.\n\n")
	return err
}

// line is how bpftool prints a field that is not the last of its struct.
func line(field string, port uint16) string { return fmt.Sprintf("%q: %d,", field, port) }

// dump returns the entries of a pinned map that hold one of the texts, as
// bpftool prints them.
func dump(ctx context.Context, bpftool, pin string, want []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, dumpTimeout)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, bpftool, "map", "dump", "pinned", pin)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bpftool map dump pinned %s: %w: %s", pin, err, strings.TrimSpace(stderr.String()))
	}
	return entries(string(out), want), nil
}

// separator is what bpftool prints between two entries.
const separator = "},{"

// entries returns the entries of a dump that hold one of the texts, without
// their outer braces, in the order of the texts.
func entries(dump string, want []string) (found []string) {
	dump = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(dump), "[{"), "}\n]")
	for _, text := range want {
		for e := range strings.SplitSeq(dump, separator) {
			if strings.Contains(e, text) {
				found = append(found, e)
			}
		}
	}
	return found
}
