// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const cgroupDir = "cgroup"

// socketHook is a hook of a control group: what its processes do with sockets.
type socketHook struct {
	name    string
	attach  ebpf.AttachType
	program func(*Generation) *ebpf.Program
	// begins says that it leads sockets, or judges them; the others follow those that
	// were led.
	begins bool
}

// socketHooks are attached in this order: first what says where a socket was led,
// and counts its end.
var socketHooks = []socketHook{
	{"sock_release", ebpf.AttachCgroupInetSockRelease, func(g *Generation) *ebpf.Program { return g.SockRelease }, false},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, func(g *Generation) *ebpf.Program { return g.SockGetpeername4 }, false},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, func(g *Generation) *ebpf.Program { return g.SockGetpeername6 }, false},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, func(g *Generation) *ebpf.Program { return g.SockRecvmsg4 }, false},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, func(g *Generation) *ebpf.Program { return g.SockRecvmsg6 }, false},
	{"bind4", ebpf.AttachCGroupInet4Bind, func(g *Generation) *ebpf.Program { return g.SockBind4 }, true},
	{"bind6", ebpf.AttachCGroupInet6Bind, func(g *Generation) *ebpf.Program { return g.SockBind6 }, true},
	{"connect4", ebpf.AttachCGroupInet4Connect, func(g *Generation) *ebpf.Program { return g.SockConnect4 }, true},
	{"connect6", ebpf.AttachCGroupInet6Connect, func(g *Generation) *ebpf.Program { return g.SockConnect6 }, true},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, func(g *Generation) *ebpf.Program { return g.SockSendmsg4 }, true},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, func(g *Generation) *ebpf.Program { return g.SockSendmsg6 }, true},
}

// sockets are the programs on a control group, by hook.
type sockets struct {
	dir, cgroup string // no cgroup: there are none
	id          uint64 // of the cgroup
	log         *slog.Logger
	links       map[string]*pinnedLink
	stale, lost map[string]bool
	former      []formerHook
}

// formerHook is one of a control group whose sockets are not led any more.
type formerHook struct {
	socketHook
	link *pinnedLink
}

// newSockets takes a control group, which must be one of version 2; "": none.
func newSockets(dir, cgroup string, log *slog.Logger) (sockets, error) {
	s := sockets{dir: dir, cgroup: cgroup, log: log, links: make(map[string]*pinnedLink), stale: make(map[string]bool), lost: make(map[string]bool)}
	if cgroup == "" {
		return s, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroup, &fs); err != nil {
		return s, fmt.Errorf("control group %s: %w: name one with --cgroup", cgroup, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return s, fmt.Errorf("%s is no control group of version 2: name one with --cgroup", cgroup)
	}
	var st unix.Stat_t
	if err := unix.Stat(cgroup, &st); err != nil {
		return s, fmt.Errorf("control group %s: %w", cgroup, err)
	}
	s.id = st.Ino // which is its id, on 64-bit machines
	return s, nil
}

// adopt takes what an earlier process attached. What is on another control group, or
// not wanted any more, is former: sockets that it led are followed to their end, so
// what they count is taken back.
func (s *sockets) adopt() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the pinned links: %w", err)
	}
	for _, e := range entries { // by name: those that are not former come before
		name, _, _ := strings.Cut(e.Name(), "-")
		at := slices.IndexFunc(socketHooks, func(h socketHook) bool { return h.name == name })
		if at < 0 {
			continue
		}
		pin := filepath.Join(s.dir, e.Name())
		l, err := adoptLink(pin)
		if err != nil {
			return fmt.Errorf("adopt %s: %w", pin, err)
		}
		if err := s.take(socketHooks[at], l); err != nil {
			return fmt.Errorf("adopt %s: %w", pin, err)
		}
	}
	return nil
}

// take makes a link one of this control group's, or a former one. One whose control
// group is gone is removed.
func (s *sockets) take(h socketHook, l *pinnedLink) error {
	info, err := l.Info()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	at := info.Cgroup()
	if at == nil || at.CgroupId == 0 || (s.running(l) && s.links[h.name] != nil) {
		return errors.Join(l.Unpin(), l.Close())
	}
	name := h.name
	if !s.running(l) {
		name = fmt.Sprintf("%s-%d", h.name, at.CgroupId)
	}
	if err := l.rename(filepath.Join(s.dir, name)); err != nil {
		return errors.Join(err, l.Close())
	}
	if s.running(l) {
		s.links[h.name] = l
	} else {
		s.former = append(s.former, formerHook{h, l})
	}
	return nil
}

// endFormer takes programs off where sockets begin, of former control groups: those
// of this one are there.
func (s *sockets) endFormer() error {
	var errs []error
	s.former = slices.DeleteFunc(s.former, func(f formerHook) bool {
		if f.begins {
			errs = append(errs, f.link.Unpin(), f.link.Close())
		}
		return f.begins
	})
	return errors.Join(errs...)
}

func (s *sockets) running(l *pinnedLink) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	at := info.Cgroup()
	return at != nil && s.cgroup != "" && at.CgroupId == s.id
}

// swap points all hooks at a generation's programs. Those that it cannot update are
// stale.
func (s *sockets) swap(g *Generation) {
	for _, h := range socketHooks {
		if s.links[h.name] == nil {
			continue
		}
		if err := s.update(g, h); err != nil {
			s.log.Error("a control group keeps a program of before", "error", err)
		}
	}
	for _, f := range s.former {
		if err := f.link.update(f.program(g)); err != nil {
			s.log.Error("a former control group keeps a program of before", "hook", f.name, "error", err)
		}
	}
}

func (s *sockets) update(g *Generation, h socketHook) error {
	err := s.links[h.name].update(h.program(g))
	s.stale[h.name] = err != nil
	if err != nil {
		return fmt.Errorf("update the program at %s of control group %s: %w", h.name, s.cgroup, err)
	}
	return nil
}

// SetSockets attaches the published programs to the control group. What somebody
// else detached is attached again.
func (l *Loader) SetSockets() (changes []Change, err error) {
	s := &l.sockets
	if s.cgroup == "" {
		return nil, s.endFormer()
	}
	var errs []error
	for _, h := range socketHooks {
		have := s.links[h.name]
		if have != nil && !s.running(have) {
			s.lost[h.name] = true
			errs = append(errs, have.detach(), have.Close())
			delete(s.links, h.name)
			have = nil
		}
		if have != nil {
			if s.stale[h.name] {
				errs = append(errs, s.update(l.current, h))
			}
			continue
		}
		if err := s.attach(l.current, h); err != nil {
			errs = append(errs, err)
			continue
		}
		c := Change{Cgroup: s.cgroup, Hook: h.name, Attached: true}
		if s.lost[h.name] {
			c.Mended = Program
		}
		delete(s.lost, h.name)
		changes = append(changes, c)
	}
	return changes, errors.Join(append(errs, s.endFormer(), l.endFormerSockets())...)
}

func (s *sockets) attach(g *Generation, h socketHook) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of pins: %w", err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: s.cgroup, Attach: h.attach, Program: h.program(g)})
	if err != nil {
		return fmt.Errorf("attach %s to control group %s: %w", h.name, s.cgroup, err)
	}
	pinned, err := pinLink(l, filepath.Join(s.dir, h.name))
	if err != nil {
		return err
	}
	s.links[h.name], s.stale[h.name] = pinned, false
	return nil
}

// endFormerSockets takes the programs of another layout off where sockets begin:
// those that they led are still followed.
func (l *Loader) endFormerSockets() error {
	dirs, err := formers(l.opts.PinPath)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		for _, h := range socketHooks {
			pin := filepath.Join(dir, cgroupDir, h.name)
			if !h.begins {
				continue
			}
			if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("take the programs of another layout off: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// all are the links, former ones too.
func (s *sockets) all() []*pinnedLink {
	out := slices.Collect(maps.Values(s.links))
	for _, f := range s.former {
		out = append(out, f.link)
	}
	return out
}

func (s *sockets) close() error {
	var errs []error
	for _, l := range s.all() {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Cgroup returns the control group whose sockets are led, "" if there is none, and
// the hooks of it that have a program.
func (l *Loader) Cgroup() (path string, hooks []string) {
	for _, h := range socketHooks {
		if l.sockets.links[h.name] != nil {
			hooks = append(hooks, h.name)
		}
	}
	return l.sockets.cgroup, hooks
}

// PinnedCgroup returns what Cgroup does by the pins alone: the control group by its id,
// as "id 1".
func PinnedCgroup(pinPath string) (cgroup string, hooks []string, err error) {
	for _, h := range socketHooks {
		pin := filepath.Join(pinPath, cgroupDir, h.name)
		l, err := link.LoadPinnedLink(pin, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("open link %s: %w", pin, err)
		}
		info, err := l.Info()
		if err := errors.Join(err, l.Close()); err != nil {
			return "", nil, fmt.Errorf("look at link %s: %w", pin, err)
		}
		if at := info.Cgroup(); at != nil && at.CgroupId != 0 { // 0: it was taken off
			cgroup, hooks = fmt.Sprintf("id %d", at.CgroupId), append(hooks, h.name)
		}
	}
	return cgroup, hooks, nil
}

// netnsCookie is that of the calling thread's network namespace, as programs see it.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}
