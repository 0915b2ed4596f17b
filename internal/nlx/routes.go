// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routesSettle is the least time between two calls of RunRoutes: a router
	// that learns a full table is one storm of events.
	routesSettle = 250 * time.Millisecond
	routesAudit  = 30 * time.Second // in case an event was lost
)

// HasRoute reports whether the routing tables know the address by more than a
// default route: as an address of this machine, or by a route of any type for
// a prefix that it is in. One request to the kernel; no table is read.
func (w *Watcher) HasRoute(addr netip.Addr) (bool, error) {
	routes, err := w.h.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ESRCH):
		return false, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES), errors.Is(err, unix.EHOSTUNREACH):
		return true, nil // blackhole, prohibit, unreachable: the kernel does not say of which length
	case err != nil:
		return false, fmt.Errorf("look up the route to %s: %w", addr, err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if bits, _ := r.Dst.Mask.Size(); bits > 0 {
			return true, nil
		}
	}
	return false, nil
}

// RunRoutes calls changed at the start, soon after every change of a route, an
// address or a device, and every half minute. It returns nil when ctx ends.
// changed is called from the goroutine of RunRoutes.
func (w *Watcher) RunRoutes(ctx context.Context, changed func()) error {
	w.persist(ctx, func() error { return w.followRoutes(ctx, changed) })
	return nil
}

func (w *Watcher) followRoutes(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 2)
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	routes, links := make(chan netlink.RouteUpdate, 64), make(chan netlink.LinkUpdate, 64)
	// An address comes and goes with its routes in table local. A device that
	// goes down takes its IPv4 routes with it without a word.
	err := within(w.ns, func() error {
		return errors.Join(
			netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: report}),
			netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}),
		)
	})
	if err != nil {
		return fmt.Errorf("subscribe to routes: %w", err)
	}
	next, soon := time.NewTimer(0), true // soon: an event has set it
	defer next.Stop()
	for {
		open := true
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case _, open = <-routes:
		case _, open = <-links:
		case <-next.C:
			changed()
			next.Reset(routesAudit)
			soon = false
			continue
		}
		if !open {
			return errors.New("a subscription to routes ended")
		}
		if !soon {
			next.Reset(routesSettle)
			soon = true
		}
	}
}
