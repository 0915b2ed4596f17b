// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// threadClock is the clock of a thread's CPU time (CPUCLOCK_PERTHREAD of
// linux/posix-timers.h): what the kernel does for its packets in between is part of it,
// as veth hands a packet over within the call that sends it.
func threadClock(tid int) int32 { return int32(^tid)<<3 | 6 }

// cpuTime is what a clock of CPU time shows.
func cpuTime(clock int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read a clock of CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// softirqThreads are the kernel's threads that go on with packets when there were many
// at once.
func softirqThreads() ([]string, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err == nil && strings.HasPrefix(string(b), "ksoftirqd/") { // else it has ended
			dirs = append(dirs, filepath.Dir(n))
		}
	}
	return dirs, nil
}

// softirqTime is the CPU time of those.
func softirqTime(dirs []string) (time.Duration, error) {
	var sum time.Duration
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "schedstat"))
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			return 0, fmt.Errorf("read %s/schedstat: %w", d, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// meter adds up the CPU time of the server's thread and of the kernel's.
type meter struct {
	server  int32
	softirq []string
	began   time.Duration
}

func (b *bed) startMeter() (*meter, error) {
	dirs, err := softirqThreads()
	if err != nil {
		return nil, err
	}
	m := &meter{server: b.web.clock, softirq: dirs}
	m.began, err = m.read()
	return m, err
}

func (m *meter) read() (time.Duration, error) {
	server, err := cpuTime(m.server)
	if err != nil {
		return 0, err
	}
	softirq, err := softirqTime(m.softirq)
	return server + softirq, err
}

// spent is the CPU time since it was started.
func (m *meter) spent() (time.Duration, error) {
	now, err := m.read()
	return now - m.began, err
}
