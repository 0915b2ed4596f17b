// SPDX-License-Identifier: Apache-2.0

// Package maptest makes real maps for the tests of the handles. They need root.
package maptest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

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
	return made(t, s)
}

// Hash makes a map of so many elements, from 8 bytes to 4, that has memory for what
// is in it. It ends with the test.
func Hash(t testing.TB, entries uint32) *ebpf.Map {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	return made(t, &ebpf.MapSpec{Name: "hash", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: entries, Flags: unix.BPF_F_NO_PREALLOC})
}

func made(t testing.TB, s *ebpf.MapSpec) *ebpf.Map {
	t.Helper()
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
