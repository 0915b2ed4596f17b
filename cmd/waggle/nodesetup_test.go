// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/sysctl"
)

// What the kernel has later is set then: the module comes with somebody's first rule.
func TestWhatIsMissingIsSetLater(t *testing.T) {
	dir := t.TempDir()
	first, second, bad := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("word"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	missing, err := setUp([]sysctl.Setting{{Path: first, Value: 5}, {Path: second, Value: 6}, {Path: bad, Value: 7}}, slog.New(slog.NewTextHandler(&log, nil)))
	if len(missing) != 2 || err == nil || !strings.Contains(err.Error(), bad) || strings.Contains(err.Error(), first) {
		t.Fatalf("missing %v, wrong %v", missing, err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 3 {
		t.Errorf("%d warnings, want 3:\n%s", n, &log)
	}
	ended := make(chan error, 1)
	job := &settingsTask{missing: missing, every: time.Millisecond, log: slog.New(slog.DiscardHandler)}
	go func() { ended <- job.Run(t.Context()) }()
	for path, want := range map[string]string{first: "5", second: "6"} {
		if err := os.WriteFile(path+".new", []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil { // whole from the start, as the kernel's are
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			text, err := os.ReadFile(path)
			if err == nil && string(text) == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is %q, %v, want %s", path, text, err, want)
			}
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	f := proxyFlags{missing: missing}
	if tasks := f.tasks(nil); len(tasks) != 1 {
		t.Errorf("tasks %v", tasks)
	}
}
