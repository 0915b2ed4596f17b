// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childVariable makes the test binary a child of TestNothingOutlivesATest.
const childVariable = "KUBETEST_CHILD"

// born is what a child says of the server that it has started.
type born struct {
	PID int
	Dir string
}

// child starts a server and ends without ending it, when stdin does or when it
// is killed.
func child() {
	s, err := start(nil)
	if err == nil {
		p := s.process.(*process)
		err = json.NewEncoder(os.Stdout).Encode(born{p.cmd.Process.Pid, p.dir})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func TestNothingOutlivesATest(t *testing.T) {
	for name, end := range map[string]func(*exec.Cmd, io.Closer) error{
		"exit": func(_ *exec.Cmd, stdin io.Closer) error { return stdin.Close() },
		"kill": func(cmd *exec.Cmd, _ io.Closer) error { return cmd.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"=1")
			cmd.Stderr = t.Output()
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			var b born
			if err := json.Unmarshal(line, &b); err != nil {
				t.Fatal(err)
			}
			pidfd, err := unix.PidfdOpen(b.PID, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			if err := end(cmd, stdin); err != nil {
				t.Fatal(err)
			}
			// the error of one that was killed is that it was
			_ = cmd.Wait()
			if !ends(t, pidfd) {
				t.Fatalf("the server, process %d, runs on", b.PID)
			}
			if left, err := filepath.Glob(b.Dir + "*"); err != nil || left != nil {
				t.Errorf("%v is left: %v", left, err)
			}
		})
	}
}

// ends waits for a process's end: its descriptor can be read then
// (pidfd_open(2)).
func ends(t *testing.T, pidfd int) bool {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if n == 1 {
			return true
		}
	}
}

func TestAServerThatDoesNotStartSaysWhy(t *testing.T) {
	_, err := start([]string{"--service-cluster-ip-range=nonsense"})
	if err == nil || !strings.Contains(err.Error(), "service-cluster-ip-range") {
		t.Errorf("got %v, want what kube-apiserver says of its flag", err)
	}
}
