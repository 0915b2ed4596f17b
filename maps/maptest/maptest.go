// SPDX-License-Identifier: Apache-2.0

// Package maptest makes real maps for the tests of the handles. They need root.
package maptest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/waggle-lb/waggle/bpf"
)

// New makes a map of the programs' with other room: the name is its pin's. It
// ends with the test.
func New(t testing.TB, name string, entries uint32) *ebpf.Map {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	s := spec.Maps[name]
	if s == nil {
		t.Fatalf("there is no map %s", name)
	}
	s.MaxEntries = entries
	m, err := ebpf.NewMap(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
