// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mostExposed is what `systemd-analyze security` may say, in tenths: 0 is locked
// in, 100 is as root. What is left is the network, bpf and the three capabilities.
const mostExposed = "22"

// TestSystemdTakesTheUnit needs no running systemd.
func TestSystemdTakesTheUnit(t *testing.T) {
	b, err := os.ReadFile(deployed + "waggle.service")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable() // there is one, as there would be if waggle were installed
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "waggle.service")
	text := strings.Replace(string(b), "ExecStart=/usr/local/bin/waggle", "ExecStart="+self, 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", file}, {"security", "--offline=yes", "--no-pager", "--threshold=" + mostExposed, file}} {
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
