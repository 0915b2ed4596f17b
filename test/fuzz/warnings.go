// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// alarming is what the kernel says when a program, or it, did wrong.
var alarming = regexp.MustCompile(`WARNING:|BUG:|BUG |Oops|Call Trace|general protection|verifier|hw csum failure`)

// kernelWarnings returns the alarming lines of the kernel's log.
func kernelWarnings() ([]string, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	defer unix.Close(fd)
	var out []string
	b := make([]byte, 1<<14)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return out, nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // overwritten: the next is there
			continue
		case err != nil:
			return nil, fmt.Errorf("read /dev/kmsg: %w", err)
		}
		if line, _, _ := strings.Cut(string(b[:n]), "\n"); alarming.MatchString(line) {
			out = append(out, line)
		}
	}
}

// runAlone is run on a thread of its own.
func runAlone(o options) (result, error) {
	type both struct {
		res result
		err error
	}
	done := make(chan both)
	go func() {
		res, err := run(o)
		done <- both{res, err}
	}()
	b := <-done
	return b.res, b.err
}

// judge says what a run that found no difference lacks: rules that it never
// met, and a silent kernel.
func (r result) judge(before []string) error {
	after, err := kernelWarnings()
	if err != nil {
		return err
	}
	if n := len(after) - len(before); n > 0 {
		return fmt.Errorf("the kernel warned:\n%s", strings.Join(after[len(after)-n:], "\n"))
	}
	if m := r.rules.missing(); len(m) > 0 {
		return fmt.Errorf("rules that no packet met:\n%s", strings.Join(m, "\n"))
	}
	return nil
}
