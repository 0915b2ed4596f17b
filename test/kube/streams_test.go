// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// stream is a connection, or datagrams from one port, while things change.
type stream struct {
	e       *e2e
	network string
	what    string
	conn    net.Conn
	pod     string // who answers
}

// streams opens a connection and sends a datagram, which are answered by one of the pods.
func (e *e2e) streams(c client, to netip.AddrPort, pods ...*pod) (out []*stream) {
	for _, network := range networks {
		s := &stream{e: e, network: network, what: fmt.Sprintf("%s of %s to %s", network, c.addr(e.v6), to)}
		e.eventually(s.what, func() error {
			conn, r, err := dial(c, network, to, 0)
			if err != nil {
				return err
			}
			if !slices.Contains(names(pods), r.pod) {
				return errors.Join(fmt.Errorf("%s answers, want %v", r.pod, names(pods)), conn.Close())
			}
			s.conn, s.pod = conn, r.pod
			return nil
		})
		e.stops = append(e.stops, func() { s.conn.Close() })
		out = append(out, s)
	}
	return out
}

// goOn fails if a stream broke, or is answered by another pod than before.
func goOn(streams ...*stream) {
	for _, s := range streams {
		if s.network == "tcp" {
			s.echoes()
			continue
		}
		s.e.eventually(s.what+" goes on", func() error {
			r, err := ask(s.conn, s.network)
			if err == nil && r.pod != s.pod {
				s.e.fail("%s was answered by %s, now by %s", s.what, s.pod, r.pod)
			}
			return err
		})
	}
}

func (s *stream) echoes() {
	s.e.try(s.conn.SetDeadline(time.Now().Add(s.e.patience)))
	if err := netlab.Echo(s.conn, s.conn, []byte("still there?")); err != nil {
		s.e.fail("%s broke: %v", s.what, err)
	}
}

// moves waits until datagrams are answered by this pod.
func (s *stream) moves(to *pod) {
	s.e.eventually(fmt.Sprintf("%s moves from %s to %s", s.what, s.pod, to.name), func() error {
		r, err := ask(s.conn, s.network)
		if err == nil && r.pod != to.name {
			err = fmt.Errorf("%s answers", r.pod)
		}
		return err
	})
}

// isRefused waits until datagrams are.
func (s *stream) isRefused() {
	s.e.eventually(s.what+" is refused", func() error {
		r, err := ask(s.conn, s.network)
		switch {
		case err == nil:
			return fmt.Errorf("%s answers", r.pod)
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil
		}
		return err
	})
}
