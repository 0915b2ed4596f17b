// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// within calls f, which makes sockets, in a network namespace. It enters it only
// if the process is in another: entering takes CAP_SYS_ADMIN, even if one is
// there already.
func within(ns netns.NsHandle, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: a thread that entered ends with its goroutine
		if err := enter(ns); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func enter(ns netns.NsHandle) error {
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer here.Close()
	if here.Equal(ns) {
		return nil
	}
	switch err := netns.Set(ns); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("enter another network namespace: %w: it needs CAP_SYS_ADMIN", err)
	case err != nil:
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	return nil
}

// openAt opens route netlink in a network namespace.
func openAt(ns netns.NsHandle) (h *netlink.Handle, err error) {
	err = within(ns, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}
