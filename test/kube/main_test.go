// SPDX-License-Identifier: Apache-2.0

//go:build privileged

// Package kube_test runs waggle on nodes that are network namespaces, with pods and
// clients that are namespaces too, against a real API server. The tests are the lines
// of Kubernetes' own end-to-end suite for services, by their names there.
package kube_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// patience bounds every wait; nothing is asserted about time.
const patience = 30 * time.Second

// waggle is the binary under test, shared the API server; both by TestMain.
var (
	waggle string
	shared kubetest.Shared
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waggle-kube-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	waggle = filepath.Join(dir, "waggle")
	build := exec.Command("go", "build", "-o", waggle, "github.com/waggle-lb/waggle/cmd/waggle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build waggle: %v\n%s", err, out)
		return 1
	}
	// lines wait more than they work
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
