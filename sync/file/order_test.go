// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/file"
)

// parseLines makes a service of backends 192.0.2.N, given as "1 2=5 3": line
// by line, with their weights.
func parseLines(t rapid.TB, lines string) []*lb.Service {
	text := "-A -t 203.0.113.1:80 -s wrr\n"
	for _, word := range strings.Fields(lines) {
		n, w, ok := strings.Cut(word, "=")
		if !ok {
			w = "1"
		}
		text += fmt.Sprintf("-a -t 203.0.113.1:80 -r 192.0.2.%s:80 -m -w %s\n", n, w)
	}
	cfg, err := file.Parse("lines", []byte(text), file.Options{})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return cfg.Services
}

// listed is the inverse, in the order of the list.
func listed(s *lb.Service) string {
	var words []string
	for _, b := range s.Backends {
		a := b.Addr.Addr().As4()
		word := fmt.Sprint(a[3])
		if b.Weight != 1 {
			word += fmt.Sprintf("=%d", b.Weight)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func snapshot(t rapid.TB, services []*lb.Service) *lb.Snapshot {
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return snap
}

func TestOrderIsThatOfTheKernelsList(t *testing.T) {
	for _, c := range []struct{ name, before, after, want string }{
		{"first load: the last line is the head", "", "1 2 3", "3 2 1"},
		{"nothing changes", "1 2 3", "1 2 3", "3 2 1"},
		{"lines move", "1 2 3", "3 1 2", "3 2 1"},
		{"delete", "1 2 3", "1 3", "3 1"},
		{"delete all", "1 2 3", "", ""},
		{"edit stays in place", "1 2 3", "1 2=7 3", "3 2=7 1"},
		{"add in the middle of the file: the head of the list", "1 2 3", "1 4 2 3", "4 3 2 1"},
		{"add two: the later line is the newer", "1 2", "3 1 4 2", "4 3 2 1"},
		{"all at once", "1 2 3 4", "5 4=2 2 6", "6 5 4=2 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var prev *lb.Snapshot
			if c.before != "" {
				prev = snapshot(t, file.Order(nil, parseLines(t, c.before)))
			}
			got := file.Order(prev, parseLines(t, c.after))
			if diff := cmp.Diff(c.want, listed(got[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOrderKeepsPointersOfUnchangedServices(t *testing.T) {
	before := parseLines(t, "1 2 3")
	prev := snapshot(t, before)
	moved := parseLines(t, "2 3 1")
	if got := file.Order(prev, moved); got[0] != before[0] {
		t.Error("moving lines made a new service")
	}
	if diff := cmp.Diff("1 3 2", listed(moved[0])); diff != "" {
		t.Errorf("Order changed its argument (-want +got):\n%s", diff)
	}
	if got := file.Order(prev, parseLines(t, "1 2 3=2")); got[0] == before[0] || before[0].Backends[0].Weight != 1 {
		t.Error("an edit changed the service of the snapshot before")
	}
}

// TestOrderEqualsIPVS replays random files as what ipvsadm would have to do to
// a list that is kept newest first.
func TestOrderEqualsIPVS(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []string // the kernel's
		var prev *lb.Snapshot
		for range rapid.IntRange(1, 5).Draw(t, "loads") {
			lines := rapid.SliceOfDistinct(rapid.StringMatching(`[1-8](=[2-5])?`), func(s string) byte { return s[0] }).Draw(t, "lines")
			list = slices.DeleteFunc(list, func(have string) bool {
				return !slices.ContainsFunc(lines, func(s string) bool { return s[0] == have[0] })
			})
			for _, line := range lines {
				if i := slices.IndexFunc(list, func(have string) bool { return have[0] == line[0] }); i >= 0 {
					list[i] = line
				} else {
					list = slices.Insert(list, 0, line)
				}
			}
			next := file.Order(prev, parseLines(t, strings.Join(lines, " ")))
			if got, want := listed(next[0]), strings.Join(list, " "); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			prev = snapshot(t, next)
		}
	})
}
