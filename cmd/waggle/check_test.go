// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The examples of docs/services.md are files that waggle takes.
func TestRunCheckTakesTheExamplesOfTheDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```[a-z]*\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d examples, want one of each format", len(blocks))
	}
	for i, want := range []string{"3 services, 3 backends: good\n", "2 services, 3 backends: good\n"} {
		file := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(file, []byte(blocks[i][1]), 0o600); err != nil {
			t.Fatal(err)
		}
		e := newTestEnv(nil)
		if code := execute(t.Context(), &e.env, []string{"run", "--check", file}); code != exitOK {
			t.Errorf("example %d: exit %d: %s", i, code, &e.err)
		}
		if got := e.out.String(); got != fmt.Sprintf("%s: %s", file, want) {
			t.Errorf("example %d: %q, want %q", i, got, want)
		}
	}
}

func TestRunCheckSaysAllThatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	bad := "-A -t 203.0.113.10:80 -s best\n-a -t 203.0.113.10:80 -r 192.0.2.2 -m\n"
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range [][]string{{"run", "--check", file}, {"run", "--services", file}} {
		e := newTestEnv(nil)
		if code := execute(t.Context(), &e.env, verb); code != exitFailed {
			t.Errorf("%v: exit %d, want %d", verb, code, exitFailed)
		}
		for _, want := range []string{file + ":1: -s: ", "write one of rr, wrr", file + ":2: -r: ", "has no port"} {
			if !strings.Contains(e.err.String(), want) {
				t.Errorf("%v: no %q in:\n%s", verb, want, &e.err)
			}
		}
	}
}
