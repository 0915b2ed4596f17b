// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace of a lab. Its methods may be called from
// any goroutine.
type Namespace struct {
	// Name is the file's name in Dir, for `ip netns exec`.
	Name string

	ns     netns.NsHandle
	handle *netlink.Handle

	mu        sync.Mutex
	processes []*Process // guarded by mu
	closed    bool       // guarded by mu
	cgroup    *Cgroup    // guarded by mu; nil: that of this process
}

// newNamespace makes a namespace with its loopback device up.
func newNamespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name}
	err := onOwnThread(func() error {
		var err error
		n.ns, err = makeNamed(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := n.setUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("netlab: set up namespace %s: %w", name, err), n.close())
	}
	return n, nil
}

func (n *Namespace) setUp() error {
	var err error
	if n.handle, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	// Before any device exists, so that every device gets the defaults. With
	// accept_dad 0 an address is usable at once, the link-local one too
	// (Documentation/networking/ip-sysctl.rst).
	for _, kv := range [][2]string{
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
	} {
		if err := n.SetSysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	lo, err := n.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find device lo: %w", err)
	}
	if err := n.handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func (n *Namespace) group() *Cgroup {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cgroup
}

// Do runs f in the namespace, on a thread that is thrown away afterwards, so
// nothing that f does to its thread leaks. Sockets that f makes stay in the
// namespace. Goroutines that f starts, and processes started by them, are not
// in it. For many small operations call Do once around them: a call costs a
// thread. f must return; it must not call testing's FailNow or its like.
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := n.enter(n.group()); err != nil {
			return err
		}
		return f()
	})
}

// enter moves the calling thread into the namespace and a control group, for good.
func (n *Namespace) enter(c *Cgroup) error {
	if err := netns.Set(n.ns); err != nil {
		return fmt.Errorf("netlab: enter namespace %s: %w", n.Name, err)
	}
	if c == nil {
		return nil
	}
	return c.enter()
}

// onOwnThread runs f on a fresh goroutine that never unlocks its thread: the
// runtime ends such a thread with its goroutine (runtime.LockOSThread).
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// Dial connects from the namespace; network and address are net.Dial's, and
// address must hold an IP address, not a name.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialWith(ctx, &net.Dialer{}, network, address)
}

// DialWith is Dial with a dialer of the caller's, for a local address say.
func (n *Namespace) DialWith(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		var err error
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the namespace; network and address are net.Listen's.
// Connections may be accepted by any goroutine.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket is net.ListenPacket in the namespace.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.Do(func() error {
		var err error
		conn, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// SetSysctl writes a sysctl of the namespace; name is the path below /proc/sys,
// "net/ipv4/ip_forward". What is below /proc/sys/net is that of the thread
// that opens the file, so this works without a mount of its own.
func (n *Namespace) SetSysctl(name, value string) error {
	return n.Do(func() error {
		path := filepath.Join("/proc/sys", name)
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl in namespace %s: %w", n.Name, err)
		}
		return nil
	})
}

// Sysctl reads a sysctl of the namespace, without the newline.
func (n *Namespace) Sysctl(name string) (string, error) {
	var value string
	err := n.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		value = strings.TrimSuffix(string(b), "\n")
		return err
	})
	return value, err
}

// EnableForwarding makes the namespace a router of both families. Strict
// reverse path checks are on because a director must work with them.
func (n *Namespace) EnableForwarding() error {
	for _, kv := range [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv6/conf/default/forwarding", "1"},
		{"net/ipv4/conf/all/rp_filter", "1"},
		{"net/ipv4/conf/default/rp_filter", "1"},
	} {
		if err := n.SetSysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	return nil
}

// close kills what runs in the namespace and removes its name.
func (n *Namespace) close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	processes := n.processes
	n.mu.Unlock()
	for _, p := range processes {
		p.kill()
	}
	if n.handle != nil {
		n.handle.Close()
	}
	err := removeName(n.Name)
	return errors.Join(err, n.ns.Close())
}
