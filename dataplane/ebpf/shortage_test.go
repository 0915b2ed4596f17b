// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
)

func TestShortagesAreLoggedAtOnceAndThenOnceAMinute(t *testing.T) {
	var out bytes.Buffer
	l := &shortageLog{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "problem" || a.Key == "remedy" {
			return slog.Attr{}
		}
		return a
	}}))}
	start := time.Unix(1e9, 0)
	for i, c := range []struct {
		after               time.Duration
		port, address, full uint64
		want                string
	}{
		{0, 7, 7, 7, ""}, // before this process
		{2 * time.Second, 7, 7, 7, ""},
		{4 * time.Second, 8, 7, 7, "level=WARN msg=\"new connections are dropped\" packets=1\n"},
		{6 * time.Second, 20, 7, 10, "level=WARN msg=\"new connections are dropped\" packets=3\n"}, // of the other
		{63 * time.Second, 500, 7, 10, ""},
		{64 * time.Second, 508, 7, 10, "level=WARN msg=\"new connections are dropped\" packets=500\n"},
		{300 * time.Second, 508, 7, 10, ""},
		{301 * time.Second, 2, 7, 10, ""}, // a new map
		{302 * time.Second, 4, 7, 10, "level=WARN msg=\"new connections are dropped\" packets=2\n"},
	} {
		var counts [len(shortages)]uint64
		for k, s := range shortages {
			counts[k] = map[bpf.LBDropReason]uint64{
				bpf.LBDropReasonDROP_NO_PORT: c.port, bpf.LBDropReasonDROP_NO_ADDRESS: c.address, bpf.LBDropReasonDROP_FLOWS_FULL: c.full,
			}[s.reason]
		}
		out.Reset()
		l.note(counts, start.Add(c.after), i == 0)
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", c.after, diff)
		}
	}
}

func TestShortagesSayWhatToDo(t *testing.T) {
	var out bytes.Buffer
	l := &shortageLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	l.note([len(shortages)]uint64{1, 1, 1}, time.Unix(1e9, 0), false)
	for _, want := range []string{"widen --masquerade-ports", "ip addr add", "waggle flows"} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
