// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
