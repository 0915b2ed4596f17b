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
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/testbinary"
)

// patience bounds every wait; nothing is asserted about time. TestMain makes it longer
// where instructions are emulated.
var patience = 30 * time.Second

// dataplaneWord is the word of --dataplane that all nodes are started with.
var dataplaneWord = flag.String("dataplane", byEBPF, "the `dataplane` of all nodes: ebpf, or ipvs, for which the kernel must have ip_vs")

// The words.
const (
	byEBPF = "ebpf"
	byIPVS = "ipvs"
)

// waggle is the binary under test, shared the API server; both by TestMain.
var (
	waggle string
	shared kubetest.Shared
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// lines wait more than they work
	parallel := "16"
	w, err := testbinary.BuildWaggle()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer w.Remove()
	waggle = w.Path("")
	if w.Given {
		patience, oneTry, parallel = 3*time.Minute, 5*time.Second, "8"
	}
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
