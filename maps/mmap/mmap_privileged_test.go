// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package mmap

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/maps/maptest"
)

// array makes a mappable array with values of this size.
func array(t *testing.T, valueSize, entries uint32) (*ebpf.Map, *Area) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: valueSize, MaxEntries: entries})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), a.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	})
	return m, a
}

func TestStoresAndLoadsAreThoseOfTheMap(t *testing.T) {
	for _, size := range []uint32{4, 8, 12, 16, 20, 64} {
		const entries = 1111 // no whole page
		m, a := array(t, size, entries)
		if a.Len() != entries {
			t.Fatalf("%d elements, want %d", a.Len(), entries)
		}
		for _, i := range []uint32{0, 1, 510, entries - 1} {
			want := make([]byte, size)
			for offset := uint32(0); offset+4 <= size; offset += 4 {
				v := i<<8 | offset | 0x80000000
				a.Store32(i, offset, v)
				binary.LittleEndian.PutUint32(want[offset:], v)
			}
			var got []byte
			if err := m.Lookup(i, &got); err != nil || string(got) != string(want) {
				t.Errorf("values of %d bytes, element %d: % x, %v, want % x", size, i, got, err, want)
			}
			if size < 8 {
				continue
			}
			a.Store64(i, 0, 0x0102030405060708)
			binary.LittleEndian.PutUint64(want, 0x0102030405060708)
			if err := m.Lookup(i, &got); err != nil || string(got) != string(want) {
				t.Errorf("values of %d bytes, element %d: % x, %v, want % x", size, i, got, err, want)
			}
			want[0], want[4] = 0xaa, 0xbb
			if err := m.Put(i, want); err != nil {
				t.Fatal(err)
			}
			if v, w, x := a.Load64(i, 0), a.Load32(i, 0), a.Load32(i, 4); v != 0x010203bb050607aa || w != 0x050607aa || x != 0x010203bb {
				t.Errorf("values of %d bytes, element %d: %#x, %#x, %#x", size, i, v, w, x)
			}
		}
	}
}

func TestNothingOutsideOfTheElementIsTouched(t *testing.T) {
	_, a := array(t, 16, 10)
	for name, f := range map[string]func(){
		"behind the map":     func() { a.Load64(10, 0) },
		"far behind the map": func() { a.Store64(1<<31, 0, 1) },
		"behind the element": func() { a.Store64(0, 16, 1) },
		"across its end":     func() { a.Store64(9, 12, 1) },
		"not aligned":        func() { a.Load32(0, 2) },
		"not aligned, 8":     func() { a.Load64(0, 4) },
	} {
		func() {
			defer func() {
				if s, ok := recover().(string); !ok || !strings.HasPrefix(s, "map memory: element ") {
					t.Errorf("%s: recovered %v", name, s)
				}
			}()
			f()
		}()
	}
}

func TestOnlyMappableMapsOpenedForWritingAreMapped(t *testing.T) {
	if _, err := Open(maptest.New(t, "drops", 4)); err == nil || !strings.Contains(err.Error(), "mmap PerCPUArray(drops)") {
		t.Errorf("a per-CPU array: %v, want an error that names it", err)
	}
	m := maptest.New(t, "slots", 4)
	pin := "/sys/fs/bpf/waggle-test-mmap-" + strings.ReplaceAll(t.TempDir(), "/", "-")
	if err := m.Pin(pin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unpin(); err != nil {
			t.Error(err)
		}
	})
	ro, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := Open(ro); !errors.Is(err, unix.EACCES) {
		t.Errorf("a map to read: %v, want EACCES", err)
	}
}

// A reader by system calls, as a program on another CPU, sees whole words.
func TestAStoreIsSeenWholeOrNotAtAll(t *testing.T) {
	m, a := array(t, 8, 1)
	const one, other = 0x1111111111111111, 0xeeeeeeeeeeeeeeee
	a.Store64(0, 0, one)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			a.Store64(0, 0, other)
			a.Store64(0, 0, one)
		}
	}()
	seen := map[uint64]int{}
	for n := 0; n < 20_000 || len(seen) < 2 && n < 10_000_000; n++ {
		var v uint64
		if err := m.Lookup(uint32(0), &v); err != nil {
			t.Fatal(err)
		}
		seen[v]++
	}
	stop.Store(true)
	<-done
	if len(seen) != 2 || seen[one] == 0 || seen[other] == 0 {
		t.Errorf("%d words were seen: %x", len(seen), seen)
	}
}
