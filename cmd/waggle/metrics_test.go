// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// It is found before the kernel is touched: the test needs no root.
func TestRunNamesTheFlagWhoseAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte("-A -t 203.0.113.10:80 -s rr\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := taken.Addr().String()
	got := newTestEnv(nil).transcript(t, "run", "--services", file, "--pin-path", filepath.Join(t.TempDir(), "none"), "--metrics-bind-address", addr)
	for _, want := range []string{"exit 1", "--metrics-bind-address: listen tcp " + addr, "address already in use", "choose another port"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
