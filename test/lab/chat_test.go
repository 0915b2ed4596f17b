// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// chat is a TCP connection whose client always has something to say, a little
// every few milliseconds, and gets all of it back.
type chat struct {
	c     net.Conn
	stop  chan struct{}
	ended chan error // of the writer and the reader
	heard atomic.Int64
	// longest is how long the client heard nothing at most, since it was last
	// asked; in nanoseconds.
	longest atomic.Int64
}

const (
	wordSize  = 200
	wordEvery = 5 * time.Millisecond
)

func newChat(t *testing.T, from *netlab.Node, to netip.AddrPort) *chat {
	t.Helper()
	conn, _, err := connect(from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(3 * patience)); err != nil {
		t.Fatal(err)
	}
	c := &chat{c: conn, stop: make(chan struct{}), ended: make(chan error, 2)}
	var seed [32]byte
	copy(seed[:], random(len(seed)))
	go func() { c.ended <- c.speak(rand.NewChaCha8(seed)) }()
	go func() { c.ended <- c.hear(rand.NewChaCha8(seed)) }()
	return c
}

func (c *chat) speak(words io.Reader) error {
	b := make([]byte, wordSize)
	tick := time.NewTicker(wordEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return c.c.(*net.TCPConn).CloseWrite()
		case <-tick.C:
		}
		if _, err := io.ReadFull(words, b); err != nil {
			return err
		}
		if _, err := c.c.Write(b); err != nil {
			return err
		}
	}
}

// hear reads until the server has nothing more to say.
func (c *chat) hear(words io.Reader) error {
	got, want := make([]byte, wordSize), make([]byte, wordSize)
	for last := time.Now(); ; {
		n, err := io.ReadFull(c.c, got)
		if errors.Is(err, io.EOF) && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(words, want); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errors.New("the echo differs")
		}
		now := time.Now()
		c.longest.Store(max(c.longest.Load(), int64(now.Sub(last))))
		last = now
		c.heard.Add(1)
	}
}

// wait returns how the connection ended: nil if as it was meant to.
func (c *chat) wait() error { return errors.Join(<-c.ended, <-c.ended) }

// goOn waits until each has heard more.
func goOn(t *testing.T, all []*chat) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for i, c := range all {
		for from := c.heard.Load(); c.heard.Load() < from+10; time.Sleep(wordEvery) {
			if time.Now().After(deadline) {
				t.Fatalf("chat %d stands; ended: %v", i, c.over())
			}
		}
	}
}

// over returns an error of a connection that has ended.
func (c *chat) over() error {
	select {
	case err := <-c.ended:
		return err
	default:
		return errors.New("it has not")
	}
}

// silence is the longest of all since the last time.
func silence(all []*chat) time.Duration {
	var longest int64
	for _, c := range all {
		longest = max(longest, c.longest.Swap(0))
	}
	return time.Duration(longest).Round(time.Millisecond)
}
