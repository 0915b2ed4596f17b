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

// load reads the programs' maps and variables.
func load(t testing.TB) *ebpf.CollectionSpec {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// New makes a map of the programs' with other room: the name is its pin's. It
// ends with the test.
func New(t testing.TB, name string, entries uint32) *ebpf.Map {
	t.Helper()
	spec := load(t)
	s := spec.Maps[name]
	if s == nil {
		t.Fatalf("there is no map %s", name)
	}
	s.MaxEntries = entries
	return made(t, s)
}

// Variable is a variable of the programs, with the value that is compiled in. It ends
// with the test.
func Variable(t testing.TB, name string) *ebpf.Variable {
	t.Helper()
	spec := load(t)
	c, err := ebpf.NewCollection(&ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{".rodata": spec.Maps[".rodata"]}, Variables: map[string]*ebpf.VariableSpec{name: spec.Variables[name]}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.Variables[name]
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
