// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

// wantNoDemo fails if a demo of the process left anything.
func wantNoDemo(t *testing.T, pid int) {
	t.Helper()
	for _, dir := range []string{"/sys/fs/bpf", "/run/netns", "/tmp"} {
		left, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("waggle-demo-%d*", pid)))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestDemoKeepsItsPromises(t *testing.T) {
	cmd := command(waggle, "demo", "--flows", "9", "--bulk-mib", "1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo: %v\n%s\n%s", err, &out, &errs)
	}
	wantNoDemo(t, cmd.Process.Pid)
	for _, want := range []string{
		"bpftool map dump pinned", `"position": 1`, `"position": 4`, "Scheduler rr, 9 flows", "Scheduler wrr, 9 flows",
		"(1 MiB each way through a VIP, every byte compared)",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if !strings.HasSuffix(out.String(), "Everything is as the rules promise.\n") {
		t.Errorf("the verdict is not last:\n%s", &out)
	}
}

func TestDemoWritesOneDocument(t *testing.T) {
	cmd := command(waggle, "demo", "--json", "--flows", "9", "--bulk-mib", "1", "--weights", "2,1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	wantNoDemo(t, cmd.Process.Pid)
	var doc struct {
		Kind          string
		OK            bool
		Distributions []struct {
			Scheduler string
			Servers   []struct{ Got int }
		}
	}
	d := json.NewDecoder(bytes.NewReader(out))
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Errorf("something follows the document: %v", err)
	}
	if !doc.OK || doc.Kind != "DemoResult" {
		t.Errorf("%+v, want ok and kind DemoResult", doc)
	}
	for _, dist := range doc.Distributions {
		if dist.Scheduler == "wrr" && (len(dist.Servers) != 2 || dist.Servers[0].Got != 6 || dist.Servers[1].Got != 3) {
			t.Errorf("wrr of weights 2 and 1 gave %v of 9", dist.Servers)
		}
	}
}

// lines hands on each line that is written.
type lines struct{ to chan string }

func (l lines) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		select {
		case l.to <- line:
		default:
		}
	}
	return len(b), nil
}

func TestDemoThatIsInterruptedLeavesNothing(t *testing.T) {
	for at, sig := range map[string]syscall.Signal{
		"building": syscall.SIGTERM, "starting": syscall.SIGINT, "measuring": syscall.SIGTERM, "The demo goes on": syscall.SIGINT,
	} {
		t.Run(at, func(t *testing.T) {
			cmd := command(waggle, "demo", "--keep", "--flows", "9", "--bulk-mib", "1")
			said := lines{make(chan string, 1000)}
			cmd.Stderr = said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
			defer late.Stop()
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for reached := false; !reached; {
				select {
				case line := <-said.to:
					reached = strings.HasPrefix(line, at)
				case err := <-ended:
					t.Fatalf("the demo ended before %q: %v", at, err)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := <-ended
			if kept := at == "The demo goes on"; kept != (err == nil) {
				t.Errorf("the demo ended with %v", err)
			}
			wantNoDemo(t, cmd.Process.Pid)
		})
	}
}
