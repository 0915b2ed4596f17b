// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// yaml says what text does, as YAML: the services are named otherwise.
func (s *scene) yaml(servers ...*netlab.Node) string {
	var b strings.Builder
	b.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n")
	for _, proto := range []string{"TCP", "UDP"} {
		fmt.Fprintf(&b, "- name: web-%s\n  frontends: [%q, %q]\n  backends:\n", strings.ToLower(proto), vip4.String()+"/"+proto, vip6.String()+"/"+proto)
		for _, n := range servers {
			for _, v6 := range []bool{false, true} {
				fmt.Fprintf(&b, "  - {address: %q}\n", netip.AddrPortFrom(n.Addr(v6), 8080))
			}
		}
	}
	return b.String()
}

// logText returns the daemon's log so far.
func (s *scene) logText() string {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.String()
}

// logs waits until the log has a line with all the words, n of them.
func (s *scene) logs(n int, words ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%d lines in the log with %q", n, words), func() error {
		if got := count(s.logText(), words...); got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

func count(text string, words ...string) (n int) {
	for line := range strings.Lines(text) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			n++
		}
	}
	return n
}

func (s *scene) hangUp() {
	s.t.Helper()
	if err := syscall.Kill(s.run.PID, syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
}

func TestABadEditChangesNothing(t *testing.T) {
	s := started(t, 2, true)
	var streams []*stream
	for i := range 6 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	all := s.Servers()
	for i, bad := range []struct{ rules, line, field, remedy string }{
		{s.text(all[0]) + "-a -t 198.18.255.10:80 -r 198.19.9.2:8080 -m -w heavy\n", ":9: ", "-w: ", "write 0 to 65535"},
		{strings.Replace(s.yaml(all[0]), "  backends:", "  backens:", 1), ":6: ", "services[0].backens: ", "write one of"},
	} {
		s.write(bad.rules)
		complaint := []string{"level=ERROR", s.rules + bad.line, bad.field, bad.remedy}
		s.logs(1, complaint...)
		s.goesOn(streams)
		for _, who := range []string{"s1", "s2"} {
			if s.never(who) == nil {
				t.Errorf("edit %d: %s gets no new connections", i, who)
			}
		}
		s.hangUp()
		s.logs(2, complaint...)
		s.logs(2*i+2, "level=ERROR", "the last good services stay")
	}
	s.write(s.text(all[1]))
	s.eventually("the good edit is applied", func() error { return s.never("s1") })
	s.logs(1, "services file is good again")
	s.goesOn(streams)
	s.finish(streams)
}

// visitor makes one connection after the other until it is stopped.
type visitor struct {
	stop   chan struct{}
	done   sync.WaitGroup
	visits int
	failed []error
}

func (s *scene) visit(vip netip.AddrPort) *visitor {
	v := &visitor{stop: make(chan struct{})}
	v.done.Go(func() {
		for {
			select {
			case <-v.stop:
				return
			default:
			}
			c, _, err := connect(s.Clients()[0], vip)
			v.visits++
			if err != nil {
				v.failed = append(v.failed, err)
				continue
			}
			c.Close()
		}
	})
	return v
}

func (v *visitor) end(t *testing.T) {
	t.Helper()
	close(v.stop)
	v.done.Wait()
	if len(v.failed) > 0 || v.visits == 0 {
		t.Errorf("%d of %d new connections failed: %v", len(v.failed), v.visits, errors.Join(v.failed...))
	}
}

func TestSwitchingFormatsUnderTraffic(t *testing.T) {
	s := started(t, 2, true)
	all := s.Servers()
	streams := []*stream{s.stream(vip4), s.stream(vip6)}
	visitors := []*visitor{s.visit(vip4), s.visit(vip6)}
	for i := range 3 {
		s.edit(s.yaml(all[i%2]))
		s.logs(i+1, "services read", "format=YAML")
		s.eventually("YAML is served", func() error { return s.never([]string{"s2", "s1"}[i%2]) })
		if out := s.must("services"); !strings.Contains(out, "web-tcp") || strings.Count(out, "\n") != 5 {
			t.Errorf("services of YAML:\n%s", out)
		}
		s.goesOn(streams)
		s.write(s.text(all...))
		s.logs(i+2, "services read", `format="ipvsadm -S -n"`)
		s.eventually("the text is served", func() error {
			if s.never("s1") == nil || s.never("s2") == nil {
				return errors.New("one of them gets nothing")
			}
			return nil
		})
		if out := s.must("services"); strings.Contains(out, "web-tcp") || strings.Count(out, "\n") != 5 {
			t.Errorf("services of the text:\n%s", out)
		}
		s.goesOn(streams)
	}
	for _, v := range visitors {
		v.end(t)
	}
	s.finish(streams)
}

// served returns the backends of all services, without their counters.
func (s *scene) served() (out []string) {
	for _, b := range s.items("backends") {
		out = append(out, fmt.Sprint(b["service"], b["address"], b["weight"], b["state"]))
	}
	return out
}

// A daemon that is started with a file that it refuses must not touch what is
// there: nothing, or what an earlier one left.
func TestABadFileAtTheStartIsRefusedBeforeAnythingIsDone(t *testing.T) {
	s := started(t, 1, true)
	st := s.stream(vip4)
	s.kill()
	before := s.served()
	bad := s.rules + ".bad"
	if err := os.WriteFile(bad, []byte("-A -t 198.18.255.10:80 -s best\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := s.pins + "-fresh"
	t.Cleanup(func() {
		if out, err := exec.Command(waggle, "cleanup", "--pin-path", fresh).CombinedOutput(); err != nil {
			t.Errorf("cleanup: %v\n%s", err, out)
		}
	})
	for _, pins := range []string{s.pins, fresh} {
		errs := s.refused(bad, pins)
		for _, want := range []string{bad + ":1: -s: ", "write one of rr, wrr"} {
			if !strings.Contains(errs, want) {
				t.Errorf("no %q in:\n%s", want, errs)
			}
		}
	}
	if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the refused daemon made %s: %v", fresh, err)
	}
	if diff := cmp.Diff(before, s.served()); diff != "" {
		t.Errorf("services (-before +after):\n%s", diff)
	}
	s.goesOn([]*stream{st})
	s.finish([]*stream{st})
}
