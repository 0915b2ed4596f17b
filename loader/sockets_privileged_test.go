// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// hooked is a place whose sockets are led.
type hooked struct {
	*place
	group *netlab.Cgroup
	last  *Loader // that is open
}

func newHooked(t *testing.T) *hooked {
	t.Helper()
	p := newPlace(t)
	group, err := p.lab.AddCgroup()
	p.do(err)
	h := &hooked{place: p, group: group}
	t.Cleanup(h.close)
	return h
}

func (h *hooked) close() {
	if h.last != nil {
		h.do(h.last.Close())
	}
	h.last = nil
}

// opened is a process that works on a control group, "" none, and has published.
func (h *hooked) opened(cgroup string) *Loader {
	h.t.Helper()
	var l *Loader
	h.do(h.lab.Director.Do(func() (err error) {
		l, err = Open(Options{PinPath: h.pins, Log: slog.New(slog.DiscardHandler), Spec: h.spec(), Cgroup: cgroup})
		return err
	}))
	h.last = l
	h.publish(l)
	return l
}

// set attaches, and wants so many changes, of which some were mended.
func (h *hooked) set(l *Loader, changes, mended int) {
	h.t.Helper()
	got, err := l.SetSockets()
	h.do(err)
	n := 0
	for _, c := range got {
		if c.Mended != "" {
			n++
		}
	}
	if len(got) != changes || n != mended {
		h.t.Errorf("%d changes, %d mended, want %d and %d: %v", len(got), n, changes, mended, got)
	}
}

// programs is how many a control group has at the places of ours.
func (h *hooked) programs(cgroup string) (n int) {
	h.t.Helper()
	dir, err := os.Open(cgroup)
	h.do(err)
	defer dir.Close()
	for _, hook := range socketHooks {
		got, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook.attach})
		h.do(err)
		n += len(got.Programs)
	}
	return n
}

// want waits for so many: the kernel takes a program off in its own time once the
// last file of its link is gone.
func (h *hooked) want(cgroup string, n int) {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := h.programs(cgroup)
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s has %d programs, want %d", filepath.Base(cgroup), got, n)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProgramsOfAControlGroup(t *testing.T) {
	h := newHooked(t)
	all := len(socketHooks)
	l := h.opened(h.group.Path)
	h.set(l, all, 0)
	h.want(h.group.Path, all)
	h.set(l, 0, 0)

	h.publish(l) // another generation
	h.want(h.group.Path, all)
	for _, hook := range socketHooks {
		info, err := l.sockets.links[hook.name].Info()
		h.do(err)
		if own := id(t, hook.program(l.current)); info.Program != own {
			t.Errorf("%s runs program %d, want %d", hook.name, info.Program, own)
		}
	}

	pin := filepath.Join(h.pins, cgroupDir, "connect4")
	h.do(os.Remove(pin))
	paths, err := l.Repin()
	if h.do(err); len(paths) != 1 || paths[0] != pin {
		t.Errorf("pins %v came back, want %s", paths, pin)
	}
	h.do(l.sockets.links["sendmsg6"].Detach())
	h.want(h.group.Path, all-1)
	h.set(l, 1, 1)
	h.want(h.group.Path, all)

	h.close()
	h.want(h.group.Path, all) // without a process
	cgroup, hooks, err := PinnedCgroup(h.pins)
	if h.do(err); !strings.HasPrefix(cgroup, "id ") || len(hooks) != all {
		t.Errorf("the pins say control group %q, hooks %v", cgroup, hooks)
	}
	l = h.opened(h.group.Path)
	h.set(l, 0, 0)
	h.close()

	other, err := h.lab.AddCgroup()
	h.do(err)
	l = h.opened(other.Path)
	h.want(h.group.Path, all) // until others lead
	h.set(l, all, 0)
	h.want(other.Path, all)
	h.want(h.group.Path, followers()) // of those that were led
	h.publish(l)
	for _, f := range l.sockets.former {
		info, err := f.link.Info()
		h.do(err)
		if own := id(t, f.program(l.current)); info.Program != own {
			t.Errorf("a former %s runs program %d, want %d", f.name, info.Program, own)
		}
	}
	pin = l.sockets.former[0].link.pin
	h.do(os.Remove(pin))
	paths, err = l.Repin()
	if h.do(err); len(paths) != 1 || paths[0] != pin || !strings.Contains(filepath.Base(pin), "-") {
		t.Errorf("pins %v came back, want %s", paths, pin)
	}
	h.close()

	l = h.opened("")
	h.set(l, 0, 0)
	h.want(other.Path, followers())
	h.want(h.group.Path, followers())
	h.close()

	l = h.opened(h.group.Path)
	h.set(l, all-followers(), 0)
	h.want(h.group.Path, all)
	h.want(other.Path, followers())
	h.close()
	_, err = Cleanup(h.pins)
	h.do(err)
	h.want(h.group.Path, 0)
	h.want(other.Path, 0)
}

// followers is how many programs follow sockets that were led.
func followers() (n int) {
	for _, h := range socketHooks {
		if !h.begins {
			n++
		}
	}
	return n
}

func TestCleanupLeavesNothingOnAControlGroup(t *testing.T) {
	h := newHooked(t)
	l := h.opened(h.group.Path)
	h.set(l, len(socketHooks), 0)
	h.close()
	_, err := Cleanup(h.pins)
	h.do(err)
	h.want(h.group.Path, 0)
	if _, err := os.Stat(h.pins); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}
}

// What another layout led is followed, what begins is ours alone.
func TestAnotherLayoutLeadsNothingMore(t *testing.T) {
	h := newHooked(t)
	l := h.opened(h.group.Path)
	h.set(l, len(socketHooks), 0)
	h.do(l.setAside(99))
	h.close()
	l = h.opened(h.group.Path)
	h.want(h.group.Path, len(socketHooks))
	h.set(l, len(socketHooks), 0)
	h.want(h.group.Path, len(socketHooks)+followers())
	h.do(l.EndFormer())
	h.want(h.group.Path, len(socketHooks))
}

func TestWhatIsNoControlGroupIsRefused(t *testing.T) {
	for path, says := range map[string]string{"/proc": "no control group of version 2", "/nowhere": "no such file"} {
		p := newPlace(t)
		l, err := Open(Options{PinPath: p.pins, Log: slog.New(slog.DiscardHandler), Cgroup: path})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "--cgroup") {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			p.do(l.Close())
		}
	}
}
