// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

var update = flag.Bool("update", false, "write the golden files")

// goodResult is what a demo sees when everything is right.
func goodResult() *Result {
	backends := testBackends(5, 3, 1)
	r := newResult(backends)
	for _, s := range services([]string{"rr", "wrr"}) {
		got := map[string]int{"server1": 30, "server2": 30, "server3": 30}
		if s.scheduler == "wrr" {
			got = map[string]int{"server1": 50, "server2": 30, "server3": 10}
		}
		r.addDistribution(s, backends, 90, tally{got: got})
	}
	for _, f := range families {
		r.addRate(TCPConnections, f, measurement{count: 15000, elapsed: 1250 * time.Millisecond})
		r.addRate(UDPRoundTrips, f, measurement{count: 40000, elapsed: time.Second})
		r.addRate(TCPBulk, f, measurement{count: 64 << 20, elapsed: 250 * time.Millisecond})
	}
	return r
}

// badResult has something of everything that can be wrong.
func badResult() *Result {
	backends := testBackends(5, 3, 0)
	r := newResult(backends)
	tallies := []tally{
		{got: map[string]int{"server1": 40, "server2": 50}},
		{got: map[string]int{"server1": 44, "server2": 43}, failed: 3, first: errors.New("connection refused")},
		{got: map[string]int{"server1": 45, "server2": 44, "server9": 1}},
		{got: map[string]int{"server1": 44, "server2": 45, "server3": 1}},
	}
	for i, s := range services([]string{"rr"}) {
		r.addDistribution(s, backends, 90, tallies[i])
	}
	r.addRate(TCPConnections, lb.IPv4, measurement{elapsed: time.Second})
	r.addRate(TCPBulk, lb.IPv4, measurement{count: 4096, elapsed: time.Second, err: errors.New("byte 4096 came back wrong")})
	return r
}

func TestResultGoldens(t *testing.T) {
	for name, r := range map[string]*Result{"good": goodResult(), "bad": badResult()} {
		for suffix, write := range map[string]func(io.Writer) error{".txt": r.WriteTable, ".json": r.WriteJSON} {
			t.Run(name+suffix, func(t *testing.T) {
				var got bytes.Buffer
				if err := write(&got); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join("testdata", name+suffix)
				if *update {
					if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got.String()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", path, diff)
				}
			})
		}
	}
}

func TestResultJudges(t *testing.T) {
	if r := goodResult(); !r.OK || len(r.Problems) != 0 {
		t.Errorf("good result: ok %v, problems %q", r.OK, r.Problems)
	}
	r := badResult()
	if r.OK {
		t.Error("bad result is ok")
	}
	for i, d := range r.Distributions {
		if d.OK {
			t.Errorf("distribution %d is ok", i)
		}
	}
	all := strings.Join(r.Problems, "\n")
	for _, want := range []string{
		"rr TCP over ipv4: server1 got 40 flows, promised are 45",
		"rr TCP over ipv6: 3 of 90 flows failed, the first: connection refused",
		"rr UDP over ipv4: 1 answers are from servers that are not in the rules",
		"rr UDP over ipv6: server3 got 1 flows, promised are 0",
		"tcp-connections over ipv4: not one",
		"tcp-bulk over ipv4: stopped after 4096: byte 4096 came back wrong",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("problems do not say %q:\n%s", want, all)
		}
	}
}

// A scheduler whose picks depend on the load is shown, not judged, except for
// servers that must get nothing.
func TestInexactSchedulersAreNotJudged(t *testing.T) {
	s := service{scheduler: "lc", protocol: lb.TCP, family: lb.IPv4}
	backends := testBackends(5, 3, 0)
	r := newResult(backends)
	r.addDistribution(s, backends, 80, tally{got: map[string]int{"server1": 10, "server2": 70}})
	if !r.OK {
		t.Errorf("problems: %q", r.Problems)
	}
	r.addDistribution(s, backends, 80, tally{got: map[string]int{"server1": 10, "server3": 70}})
	if r.OK {
		t.Error("a quiesced server got flows, and nothing is wrong")
	}
}

func TestCheckStream(t *testing.T) {
	const size = 200_000
	seed := [32]byte{1}
	stream := make([]byte, size)
	// A ChaCha8 never fails to read.
	_, _ = rand.NewChaCha8(seed).Read(stream)
	changed := bytes.Clone(stream)
	changed[150_001] ^= 0x10
	tests := []struct {
		name  string
		in    []byte
		right int64
		text  string
	}{
		{"whole", stream, size, ""},
		{"changed", changed, 150_001, "byte 150001"},
		{"short", stream[:size-1], size - 1, "199999 of 200000 bytes"},
		{"long", append(bytes.Clone(stream), 0), size, ""},
		{"empty", nil, 0, "0 of 200000 bytes"},
	}
	for _, tt := range tests {
		n, err := checkStream(bytes.NewReader(tt.in), seed, size)
		switch {
		case tt.name == "long":
			if err == nil {
				t.Error("long: no error")
			}
		case n != tt.right || (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text):
			t.Errorf("%s: %d bytes right, error %v; want %d and %q", tt.name, n, err, tt.right, tt.text)
		}
	}
}

func TestProgressKeepsToLinesWithoutATerminal(t *testing.T) {
	var plain, tty strings.Builder
	for _, p := range []*progress{{w: &plain}, {w: &tty, tty: true}} {
		p.step("one %d", 1)
		p.note("said")
		p.done()
	}
	if got, want := plain.String(), "one 1\nsaid\n"; got != want {
		t.Errorf("plain: %q, want %q", got, want)
	}
	if got, want := tty.String(), "\r\x1b[Kone 1 ...\r\x1b[Ksaid\n\r\x1b[K"; got != want {
		t.Errorf("terminal: %q, want %q", got, want)
	}
}
