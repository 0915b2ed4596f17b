// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// Priorities of our filters: ingress first, egress last.
const (
	priorityIngress = 1
	priorityEgress  = 0xffff
)

const (
	// filterPrefix begins the names of our filters in `tc filter show`.
	filterPrefix = "waggle:"
	qdiscSuffix  = "-clsact" // of records of qdiscs
)

// clsact attaches by filters on the clsact qdisc, which need no handle to
// stay. So that the next process, or Cleanup, finds them, each has a symbolic
// link among the pins that holds its network namespace and handle, and so has
// each qdisc that waggle made. A record is written before what it stands for.
type clsact struct {
	dir  string
	open map[uint64]*nlx.TC // by network namespace
	made map[string]string  // records of qdiscs that are ours, by path
}

func newClsact(dir string) *clsact {
	return &clsact{dir, make(map[uint64]*nlx.TC), make(map[string]string)}
}

func (c *clsact) close() {
	for ns, t := range c.open {
		t.Close()
		delete(c.open, ns)
	}
}

// in returns the handle of a network namespace. The error is
// nlx.ErrNoNamespace if it is gone.
func (c *clsact) in(namespace uint64) (*nlx.TC, error) {
	if t, ok := c.open[namespace]; ok {
		return t, nil
	}
	t, err := nlx.OpenTC(namespace)
	if err == nil {
		c.open[namespace] = t
	}
	return t, err
}

// clsactFilter is one of our filters.
type clsactFilter struct {
	c         *clsact
	namespace uint64
	filter    nlx.Filter
	pin       string
}

func (c *clsact) filter(at hook, pin string, namespace uint64, handle uint32) *clsactFilter {
	f := nlx.Filter{Index: at.ifindex, Egress: at.egress, Priority: priorityIngress, Handle: handle, Name: filterPrefix + "ingress"}
	if at.egress {
		f.Priority, f.Name = priorityEgress, filterPrefix+"egress"
	}
	if at.l3 {
		f.Name += "-l3"
	}
	return &clsactFilter{c, namespace, f, pin}
}

// record is the text of a symbolic link.
func record(namespace uint64, handle uint32) string {
	return fmt.Sprintf("clsact-%d-%x", namespace, handle)
}

func parseRecord(text string) (namespace uint64, handle uint32, err error) {
	if _, err = fmt.Sscanf(text, "clsact-%d-%x", &namespace, &handle); err == nil && record(namespace, handle) != text {
		err = errors.New("something follows")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read %q: %w: it is no record of a filter", text, err)
	}
	return namespace, handle, nil
}

// qdiscPin is the record of a qdisc that waggle made.
func (c *clsact) qdiscPin(ifindex int) string {
	return filepath.Join(c.dir, strconv.Itoa(ifindex)+qdiscSuffix)
}

// adoptAny takes what a pin records, a filter or a link.
func (c *clsact) adoptAny(at hook, pin string, e fs.DirEntry) (attachment, error) {
	if e.Type() == fs.ModeSymlink {
		return c.adopt(at, pin)
	}
	if at.xdp {
		return adoptXDP(at, pin)
	}
	return adoptTCX(at, pin)
}

// adoptQdisc takes the record of a qdisc, if that is what it is.
func (c *clsact) adoptQdisc(pin string) {
	if text, err := os.Readlink(pin); err == nil && strings.HasSuffix(pin, qdiscSuffix) {
		c.made[pin] = text
	}
}

// adopt takes a filter by its record.
func (c *clsact) adopt(at hook, pin string) (attachment, error) {
	text, err := os.Readlink(pin)
	if err != nil {
		return nil, err
	}
	namespace, handle, err := parseRecord(text)
	if err != nil {
		return nil, err
	}
	return c.filter(at, pin, namespace, handle), nil
}

// Close has nothing to release: the clsact has the sockets.
func (f *clsactFilter) Close() error { return nil }

// attach implements attacher, in the calling thread's network namespace.
func (c *clsact) attach(p *ebpf.Program, at hook, pin string) (attachment, error) {
	namespace, err := nlx.Namespace()
	if err != nil {
		return nil, err
	}
	t, err := c.in(namespace)
	if err != nil {
		return nil, err
	}
	if err := c.ensureQdisc(t, at.ifindex); err != nil {
		return nil, err
	}
	f := c.filter(at, pin, namespace, 0)
	others, err := t.Filters(at.ifindex, at.egress)
	if err != nil {
		return nil, err
	}
	f.filter.Handle = freeHandle(c.dir, f.filter.Priority, others)
	if err := os.Symlink(record(namespace, f.filter.Handle), pin); err != nil {
		return nil, fmt.Errorf("record the filter: %w", err)
	}
	if err := f.update(p); err != nil {
		return nil, errors.Join(explain(err), f.detach())
	}
	return f, nil
}

// explain adds what to do to what the kernel says.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel needs CONFIG_NET_CLS_BPF (`modprobe cls_bpf`)", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: does a filter of another kind have our priority, %d at ingress or %d at egress? `tc filter show` tells", err, priorityIngress, priorityEgress)
	}
	return err
}

// freeHandle returns a handle that no other filter of the priority has: several
// waggles, each with a pin path, may serve one device.
func freeHandle(dir string, priority uint16, others []nlx.Filter) uint32 {
	sum := fnv.New32a()
	sum.Write([]byte(dir)) // a hash takes everything
	handle := max(sum.Sum32(), 1)
	for slices.ContainsFunc(others, func(f nlx.Filter) bool { return f.Priority == priority && f.Handle == handle }) {
		handle = max(handle+1, 1)
	}
	return handle
}

// ensureQdisc gives the device a clsact qdisc, and records it if it had none.
func (c *clsact) ensureQdisc(t *nlx.TC, ifindex int) error {
	has, err := t.HasClsact(ifindex)
	if err != nil || has {
		return err
	}
	pin := c.qdiscPin(ifindex)
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // of a device that is gone, or of a qdisc that somebody removed
	}
	if err := os.Symlink(record(t.Namespace, 0), pin); err != nil {
		return fmt.Errorf("record the qdisc: %w", err)
	}
	err = t.AddClsact(ifindex)
	if err == nil {
		c.made[pin] = record(t.Namespace, 0)
		return nil
	}
	rerr := os.Remove(pin)
	if errors.Is(err, fs.ErrExist) {
		return rerr // another was quicker
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: the kernel needs CONFIG_NET_SCH_INGRESS (`modprobe sch_ingress`)", err)
	}
	return errors.Join(err, rerr)
}

func (f *clsactFilter) update(p *ebpf.Program) error {
	t, err := f.c.in(f.namespace)
	if err != nil {
		return err
	}
	return t.Replace(f.filter, p.FD())
}

func (f *clsactFilter) running() (ebpf.ProgramID, bool) {
	id, there, err := f.look()
	return id, there && err == nil
}

// look returns the program of the filter; false if there is no filter.
func (f *clsactFilter) look() (id ebpf.ProgramID, there bool, err error) {
	t, err := f.c.in(f.namespace)
	if err != nil {
		return 0, false, err
	}
	list, err := t.Filters(f.filter.Index, f.filter.Egress)
	i := slices.IndexFunc(list, f.is)
	if err != nil || i < 0 {
		return 0, false, err
	}
	return ebpf.ProgramID(list[i].Program), true, nil
}

// lost tells a qdisc that went with all that was on it from a filter that went
// alone.
func (f *clsactFilter) lost() What {
	t, err := f.c.in(f.namespace)
	if err != nil {
		return Program
	}
	if has, err := t.HasClsact(f.filter.Index); err == nil && has {
		return Program
	}
	return Qdisc
}

func (f *clsactFilter) text() string { return record(f.namespace, f.filter.Handle) }

func (f *clsactFilter) repin() (bool, error) { return repinRecord(f.pin, f.text()) }

// is reports whether another is the same filter: by its place and name, for
// the program in it changes.
func (f *clsactFilter) is(other nlx.Filter) bool {
	return other.Priority == f.filter.Priority && other.Handle == f.filter.Handle && other.Name == f.filter.Name
}

// detach removes the filter, then its record, then the qdisc if waggle made it
// and nothing else is on it.
func (f *clsactFilter) detach() error {
	_, held, err := f.look()
	if err != nil && !gone(err) {
		return err // it may be there: its record stays
	}
	if held {
		t, err := f.c.in(f.namespace)
		if err == nil {
			err = t.Delete(f.filter)
		}
		if err != nil && !gone(err) {
			return err
		}
	}
	if text, err := os.Readlink(f.pin); err == nil && text == f.text() {
		if err := os.Remove(f.pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the record of a filter: %w", err)
		}
	}
	return f.c.releaseQdisc(f.filter.Index, f.namespace, held)
}

// gone reports whether what was to be removed was not there.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, nlx.ErrNoNamespace)
}

// releaseQdisc removes a qdisc that waggle made when the last of our filters
// has left it, unless others have filters there: then it is theirs. If the
// filter was not there (held), the record may be of a device that is gone.
func (c *clsact) releaseQdisc(ifindex int, namespace uint64, held bool) error {
	pin := c.qdiscPin(ifindex)
	text, err := os.Readlink(pin)
	if errors.Is(err, fs.ErrNotExist) {
		delete(c.made, pin)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the record of a qdisc: %w", err)
	}
	ours, err := filepath.Glob(filepath.Join(c.dir, strconv.Itoa(ifindex)+"-*gress*"))
	if err != nil || len(ours) > 0 {
		return err
	}
	if held && text == record(namespace, 0) {
		if err := c.delEmptyQdisc(ifindex, namespace); err != nil && !gone(err) {
			return err
		}
	}
	delete(c.made, pin)
	return os.Remove(pin)
}

func (c *clsact) delEmptyQdisc(ifindex int, namespace uint64) error {
	t, err := c.in(namespace)
	if err != nil {
		return err
	}
	for _, egress := range []bool{false, true} {
		if list, err := t.Filters(ifindex, egress); err != nil || len(list) > 0 {
			return err
		}
	}
	return t.DelClsact(ifindex)
}

// removeFilters removes the filters that are recorded below dir, and returns
// their records' paths.
func removeFilters(dir string) (removed []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := newClsact(dir)
	defer c.close()
	for _, e := range entries {
		at, ok := parsePin(e.Name())
		if !ok || e.Type() != fs.ModeSymlink {
			continue
		}
		pin := filepath.Join(dir, e.Name())
		a, err := c.adopt(at, pin)
		if err == nil {
			err = a.detach()
		}
		if err != nil {
			return removed, fmt.Errorf("remove the filter of %s: %w", pin, err)
		}
		removed = append(removed, pin)
	}
	return removed, nil
}
