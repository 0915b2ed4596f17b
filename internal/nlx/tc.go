// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNoNamespace says that no process and no name holds a network namespace.
var ErrNoNamespace = errors.New("the network namespace is gone")

// Filter is a traffic control classifier on a device's clsact qdisc, for all
// protocols.
type Filter struct {
	Index    int // of the device
	Egress   bool
	Priority uint16 // the lower the earlier
	Handle   uint32 // among those of one priority; not 0
	// Name is what `tc filter show` prints.
	Name string
	// Program is the id of its BPF program; 0 if it is of another kind.
	Program uint32
}

// TC manages the filters of one network namespace. Safe for concurrent use.
type TC struct {
	h *netlink.Handle
	// Namespace identifies it while it exists: the inode in nsfs.
	Namespace uint64
}

// Namespace identifies the calling thread's network namespace.
func Namespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	return st.Ino, nil
}

// OpenTC opens a network namespace: the calling thread's, or the one of a
// process or below /run/netns that has this identity. Otherwise the error is
// ErrNoNamespace.
func OpenTC(namespace uint64) (*TC, error) {
	ns, err := findNamespace(namespace)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %d: %w", namespace, err)
	}
	h, err := openAt(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &TC{h, namespace}, ns.Close()
}

func findNamespace(id uint64) (netns.NsHandle, error) {
	places := []string{"/proc/thread-self/ns/net"}
	for _, pattern := range []string{"/run/netns/*", "/proc/[0-9]*/ns/net"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return -1, err
		}
		places = append(places, found...)
	}
	var denied error
	for _, path := range places {
		var st unix.Stat_t
		var fst unix.Statfs_t
		err := unix.Stat(path, &st)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			denied = fmt.Errorf("%w: looking at other processes needs CAP_SYS_PTRACE", err)
		}
		if err != nil || st.Ino != id || unix.Statfs(path, &fst) != nil || fst.Type != unix.NSFS_MAGIC {
			continue // processes come and go
		}
		ns, err := netns.GetFromPath(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return ns, err
	}
	return -1, cmp.Or(denied, ErrNoNamespace)
}

// Close releases the socket.
func (t *TC) Close() { t.h.Close() }

func parent(egress bool) uint32 {
	if egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func clsact(index int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0),
	}}
}

func device(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// HasClsact reports whether the device has a clsact qdisc. The older ingress
// qdisc takes the same place and has no egress: an error.
func (t *TC) HasClsact(index int) (bool, error) {
	list, err := retry("qdiscs", func() ([]netlink.Qdisc, error) { return t.h.QdiscList(device(index)) })
	if err != nil {
		return false, err
	}
	for _, q := range list {
		switch {
		case q.Attrs().LinkIndex != index:
		case q.Type() == "clsact":
			return true, nil
		case q.Type() == "ingress":
			return false, errors.New("the device has an ingress qdisc, in the place of clsact: move its filters to clsact (`tc qdisc del dev … ingress`)")
		}
	}
	return false, nil
}

// AddClsact gives the device a clsact qdisc. The error is fs.ErrExist if it
// has one.
func (t *TC) AddClsact(index int) error {
	if err := t.h.QdiscAdd(clsact(index)); err != nil {
		return fmt.Errorf("add qdisc clsact: %w", err)
	}
	return nil
}

// DelClsact removes the clsact qdisc with every filter on it.
func (t *TC) DelClsact(index int) error {
	if err := t.h.QdiscDel(clsact(index)); err != nil {
		return fmt.Errorf("remove qdisc clsact: %w", err)
	}
	return nil
}

// Filters lists what is on one side of the device's clsact qdisc, in the order
// that packets meet. Without the qdisc, or without the device, that is nothing.
func (t *TC) Filters(index int, egress bool) (out []Filter, err error) {
	list, err := retry("filters", func() ([]netlink.Filter, error) { return t.h.FilterList(device(index), parent(egress)) })
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		a := f.Attrs()
		got := Filter{Index: index, Egress: egress, Priority: a.Priority, Handle: a.Handle}
		if b, ok := f.(*netlink.BpfFilter); ok {
			got.Name, got.Program = b.Name, uint32(b.Id)
		}
		out = append(out, got)
	}
	return out, nil
}

func (f Filter) netlink(fd int) netlink.Filter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: f.Index, Parent: parent(f.Egress), Handle: f.Handle, Priority: f.Priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: fd, Name: f.Name, DirectAction: true,
	}
}

// Replace makes the filter run the program with this file descriptor, in
// direct-action mode. A packet meets the old program or the new one. What is
// not there is added.
func (t *TC) Replace(f Filter, fd int) error {
	if err := t.h.FilterReplace(f.netlink(fd)); err != nil {
		return fmt.Errorf("set filter %s: %w", f.Name, err)
	}
	return nil
}

// Delete removes the filter with this priority and handle.
func (t *TC) Delete(f Filter) error {
	if f.Handle == 0 {
		return errors.New("remove a filter: no handle")
	}
	if err := t.h.FilterDel(f.netlink(-1)); err != nil {
		return fmt.Errorf("remove filter %s: %w", f.Name, err)
	}
	return nil
}
