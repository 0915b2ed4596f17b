// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"os"
	"testing"
)

func TestNamePatternFindsTheOwner(t *testing.T) {
	tests := []struct{ name, pid string }{
		{"waggle-lab-123-0-director", "123"},
		{"waggle-a-b-7-123-4-client12", "123"},
		{"waggle-demo-1-0-server1", "1"},
		{"waggle-lab-123-0", ""},
		{"waggle-lab--0-director", ""},
		{"lab-123-0-director", ""},
		{"my-waggle-lab-123-0-director", ""},
		{"waggle-lab-123-0-director.bak", ""},
	}
	for _, tt := range tests {
		match := namePattern.FindStringSubmatch(tt.name)
		got := ""
		if match != nil {
			got = match[1]
		}
		if got != tt.pid {
			t.Errorf("owner of %q is %q, want %q", tt.name, got, tt.pid)
		}
	}
}

func TestAlive(t *testing.T) {
	if !Alive(os.Getpid()) || !Alive(1) {
		t.Error("this process or process 1 looks dead")
	}
	// The largest pid that Linux ever gives is 2^22 (proc(5), pid_max).
	if Alive(1<<22 + 1) {
		t.Error("a process that cannot exist looks alive")
	}
}

func TestNewRefusesBadPrefixes(t *testing.T) {
	for _, prefix := range []string{"a/b", "-a", "a-", "a b", "..", "ä"} {
		if lab, err := New(Options{Prefix: prefix}); err == nil {
			lab.Close()
			t.Errorf("prefix %q was taken, want an error", prefix)
		}
	}
}
