// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Address is one of a device's, or was.
type Address struct {
	netip.Addr
	Device int
	Gone   bool
}

// Addresses lists those of all devices.
func (w *Watcher) Addresses() ([]Address, error) {
	list, err := retry("addresses", func() ([]netlink.Addr, error) { return w.h.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	var out []Address
	for i := range list {
		if a, ok := netip.AddrFromSlice(list[i].IP); ok {
			out = append(out, Address{Addr: a.Unmap(), Device: list[i].LinkIndex})
		}
	}
	return out, nil
}

// RunAddresses calls all with the addresses that there are, and changed for each
// that comes or goes then; all again whenever some may have been missed. It returns
// when ctx ends.
func (w *Watcher) RunAddresses(ctx context.Context, all func([]Address), changed func(Address)) {
	w.persist(ctx, func() error { return w.followAddresses(ctx, all, changed) })
}

func (w *Watcher) followAddresses(ctx context.Context, all func([]Address), changed func(Address)) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	updates := make(chan netlink.AddrUpdate, 64)
	err := within(w.ns, func() error {
		return netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: report})
	})
	if err != nil {
		return fmt.Errorf("follow addresses: %w", err)
	}
	list, err := w.Addresses()
	if err != nil {
		return err
	}
	all(list)
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return errors.New("follow addresses: the kernel's messages ended")
			}
			if a, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok {
				changed(Address{a.Unmap(), u.LinkIndex, !u.NewAddr})
			}
		case err := <-failed:
			return fmt.Errorf("follow addresses: %w", err)
		}
	}
}
