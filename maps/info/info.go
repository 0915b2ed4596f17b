// SPDX-License-Identifier: Apache-2.0

// Package info handles the maps that explain the others: service_info, the
// names of services, and meta, the clocks.
package info

import (
	"bytes"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/batch"
)

// The longest texts that the map holds, in bytes: one less than their fields,
// so that a NUL always ends them.
const (
	MaxName      = len(bpf.LBServiceName{}.Name) - 1
	MaxScheduler = len(bpf.LBServiceName{}.Scheduler) - 1
)

// Service is what service_info says about a service hash.
type Service struct {
	ID        lb.ServiceID
	Scheduler string
	Flags     lb.SchedulerFlags
}

// Services is the map service_info. One goroutine writes.
type Services struct {
	Map *ebpf.Map
	// Later, if it is not nil, collects what is written until its Flush.
	Later *Later
}

// Later collects elements of the map.
type Later = batch.Later[uint64, bpf.LBServiceName]

// Put writes the entry of s.ID.Hash(). Names longer than MaxName are cut.
func (t Services) Put(s Service) error {
	v := bpf.LBServiceName{Family: uint8(s.ID.Family), Flags: uint8(s.Flags)}
	copy(v.Name[:MaxName], s.ID.Name)
	copy(v.Scheduler[:MaxScheduler], s.Scheduler)
	if err := t.Later.Put(t.Map, s.ID.Hash(), v); err != nil {
		return fmt.Errorf("write service %s to map %s: %w", s.ID, t.Map, err)
	}
	return nil
}

// Delete removes the entry of a service hash, which may be absent.
func (t Services) Delete(hash uint64) error {
	if err := t.Later.Delete(t.Map, hash); err != nil {
		return fmt.Errorf("delete from map %s: %w", t.Map, err)
	}
	return nil
}

// Each yields all entries.
func (t Services) Each(yield func(hash uint64, s Service)) error {
	return batch.Each(t.Map, func(hash uint64, v *bpf.LBServiceName) error {
		yield(hash, Service{
			ID:        lb.ServiceID{Name: text(v.Name[:]), Family: lb.Family(v.Family)},
			Scheduler: text(v.Scheduler[:]),
			Flags:     lb.SchedulerFlags(v.Flags),
		})
		return nil
	})
}

func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// Timeouts say how long a flow of each state lives without a packet, in seconds.
type Timeouts [16]uint32

// Clocks says what a jiffy is: how many make a second, and a pair of clocks
// that were read together; and how long flows live.
type Clocks struct {
	Hz      uint32
	Jiffies uint64
	// Ktime is CLOCK_MONOTONIC in ns, as bpf_ktime_get_ns gives it.
	Ktime    uint64
	Timeouts Timeouts
}

// Put writes the clocks to the map meta, with the layout of this build.
func (c Clocks) Put(meta *ebpf.Map) error {
	v := bpf.LBClocks{Layout: uint32(bpf.LBLimitsLAYOUT_VERSION), Hz: c.Hz, Jiffies: c.Jiffies, Ktime: c.Ktime, Timeouts: c.Timeouts}
	if err := meta.Put(uint32(0), v); err != nil {
		return fmt.Errorf("write map %s: %w", meta, err)
	}
	return nil
}

// ReadClocks reads the map meta. It fails if the maps have another layout than
// this build knows, or were never completed.
func ReadClocks(meta *ebpf.Map) (Clocks, error) {
	var v bpf.LBClocks
	if err := meta.Lookup(uint32(0), &v); err != nil {
		return Clocks{}, fmt.Errorf("read map %s: %w", meta, err)
	}
	if v.Layout != uint32(bpf.LBLimitsLAYOUT_VERSION) || v.Hz == 0 {
		return Clocks{}, fmt.Errorf("map %s has layout %d and %d jiffies a second; this build reads layout %d: use the version of waggle that made it",
			meta, v.Layout, v.Hz, bpf.LBLimitsLAYOUT_VERSION)
	}
	return Clocks{Hz: v.Hz, Jiffies: v.Jiffies, Ktime: v.Ktime, Timeouts: v.Timeouts}, nil
}

// Now returns the current time in jiffies.
func (c Clocks) Now() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	d := max(0, ts.Nano()-int64(c.Ktime))
	// Seconds and the rest apart: the product of all would overflow in months.
	return c.Jiffies + uint64(d/1e9)*uint64(c.Hz) + uint64(d%1e9)*uint64(c.Hz)/1e9, nil
}

// future is the age, in jiffies, from which on a value counts as of the future,
// as in bpf/sweep.h: a packet on another CPU may be newer than now.
const future = 1<<32 - 1<<16

// Since returns the time since the low 32 bits of a jiffies value, at now. The
// near future counts as now; all else is past, up to a whole wrap.
func (c Clocks) Since(now uint64, seen uint32) time.Duration {
	age := uint32(now) - seen
	if age >= future {
		age = 0
	}
	return time.Duration(age) * time.Second / time.Duration(c.Hz)
}
