// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

// line is one test of the end-to-end suite, by its name there.
type line struct {
	name string
	run  func(*e2e)
	// families is which it runs for, if not for both: "ipv4" and "ipv6".
	families []string
	// alone says that it disturbs others: it runs when they are done.
	alone bool
}

// unmet ends a line: panics carry it to runLine.
type unmet struct{ text string }

// e2e is one line at work, for one family. Its methods end the line if the cluster does
// not come to what they want within patience.
type e2e struct {
	*cluster
	t        *testing.T
	ns       string // of the line's own
	v6       bool
	patience time.Duration
	serving  map[netip.AddrPort]func() // where its pods answer
	stops    []func()
}

// runLines runs lines in a cluster of their own, beside each other where they can.
func runLines(t *testing.T, lines []line) { runLinesWith(t, options{}, lines) }

func runLinesWith(t *testing.T, o options, lines []line) {
	c, test := newCluster(t, o), t.Name()
	for _, alone := range []bool{false, true} {
		t.Run(map[bool]string{false: "together", true: "alone"}[alone], func(t *testing.T) {
			for _, l := range lines {
				if l.alone != alone {
					continue
				}
				for _, family := range l.runsFor() {
					t.Run(l.name+"/"+family, func(t *testing.T) {
						if !alone {
							t.Parallel()
						}
						c.runLine(t, l, family, test)
					})
				}
			}
		})
	}
}

// runsFor are its families.
func (l line) runsFor() []string {
	if l.families == nil {
		return []string{"ipv4", "ipv6"}
	}
	return l.families
}

// runLine runs a line of a test, which an exception must fail.
func (c *cluster) runLine(t *testing.T, l line, family, test string) {
	e := &e2e{cluster: c, t: t, ns: c.api.Namespace(t), v6: family == "ipv6", patience: patience, serving: make(map[netip.AddrPort]func())}
	defer e.stop()
	x, not := excepted(test, l.name, family)
	if not = not && *dataplaneWord == byIPVS; not {
		e.patience = notMet
	}
	switch err := e.attempt(l.run); {
	case not && err == nil:
		t.Errorf("it passes, and notByIPVS has %q", x.lines)
	case not:
		t.Logf("an exception: %v", err)
	case err != nil:
		t.Error(err)
	}
}

func (e *e2e) attempt(run func(*e2e)) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case unmet:
			err = fmt.Errorf("%s", p.text)
		default:
			panic(p)
		}
	}()
	run(e)
	return nil
}

// stop ends what the line's pods serve.
func (e *e2e) stop() {
	for _, f := range e.stops {
		f()
	}
}

// fail ends the line.
func (e *e2e) fail(format string, args ...any) {
	panic(unmet{fmt.Sprintf(format, args...)})
}

func (e *e2e) try(err error) {
	if err != nil {
		e.fail("%v", err)
	}
}

// eventually tries f until it returns nil.
func (e *e2e) eventually(what string, f func() error) {
	deadline := time.Now().Add(e.patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			e.fail("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ports are given out once, to all lines: pods are shared.
var ports atomic.Uint32

// port is one at which no other line's pods serve.
func (e *e2e) port() uint16 { return uint16(8000 + ports.Add(1)) }

// object makes an object of the line's namespace.
func (e *e2e) object(text string) kubetest.Object { return e.api.Apply(e.t, e.ns, text)[0] }
