// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/cgroup"
)

// Cgroup is a control group of a lab: what sockets belong to that are made in its
// namespaces.
type Cgroup struct {
	// Path is its directory.
	Path string
}

// newCgroup makes one that takes single threads, as the threads of a test are those
// of one process (Documentation/admin-guide/cgroup-v2.rst, "Threads").
func newCgroup(name string) (*Cgroup, error) {
	root, err := cgroup.Root()
	if err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	c := &Cgroup{filepath.Join(root, name)}
	if err := os.Mkdir(c.Path, 0o755); err != nil {
		return nil, fmt.Errorf("netlab: make a control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.Path, "cgroup.type"), []byte("threaded"), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("netlab: let control group %s take threads: %w", c.Path, err), c.close())
	}
	return c, nil
}

// enter moves the calling thread into it, for good.
func (c *Cgroup) enter() error {
	tid := strconv.Itoa(unix.Gettid())
	if err := os.WriteFile(filepath.Join(c.Path, "cgroup.threads"), []byte(tid), 0); err != nil {
		return fmt.Errorf("netlab: enter control group %s: %w", c.Path, err)
	}
	return nil
}

// close removes it. A thread that ends is in it for a moment longer.
func (c *Cgroup) close() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := unix.Rmdir(c.Path)
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("netlab: remove control group %s: %w", c.Path, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// AddCgroup makes a control group, one of the lab's own, that is removed with it.
func (l *Lab) AddCgroup() (*Cgroup, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := newCgroup(fmt.Sprintf("%s-%d", l.name, len(l.cgroups)))
	if err != nil {
		return nil, err
	}
	l.cgroups = append(l.cgroups, c)
	return c, nil
}

// SetCgroup says in which control group what is done in the namespace is done from
// now on: sockets that are made, and processes that are started.
func (n *Namespace) SetCgroup(c *Cgroup) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cgroup = c
}

// removeStaleCgroups removes those of labs whose process is dead.
func removeStaleCgroups() error {
	root, err := cgroup.Root()
	if err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join(root, "waggle-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		match := cgroupPattern.FindStringSubmatch(filepath.Base(dir))
		if match == nil {
			continue
		}
		if pid, err := strconv.Atoi(match[1]); err == nil && !Alive(pid) {
			errs = append(errs, (&Cgroup{dir}).close())
		}
	}
	return errors.Join(errs...)
}
