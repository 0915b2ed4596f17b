// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// removals says when filters or qdiscs are removed, until done is closed. What
// comes while nobody listens is one.
func (w *Watcher) removals(done <-chan struct{}, report func(error)) (<-chan struct{}, error) {
	var s *nl.NetlinkSocket
	err := within(w.ns, func() (err error) {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to traffic control events: %w", err)
	}
	go func() {
		<-done
		s.Close()
	}()
	out := make(chan struct{}, 1)
	go func() {
		for {
			messages, _, err := s.Receive()
			if err != nil {
				report(fmt.Errorf("receive traffic control events: %w", err))
				return
			}
			for _, m := range messages {
				if m.Header.Type != unix.RTM_DELQDISC && m.Header.Type != unix.RTM_DELTFILTER {
					continue
				}
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, nil
}
