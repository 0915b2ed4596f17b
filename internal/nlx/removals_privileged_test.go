// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package nlx

import (
	"log/slog"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// A qdisc that is removed is told of by an event; that it was made is not.
func TestARemovedQdiscIsToldOf(t *testing.T) {
	lab, err := netlab.New(netlab.Options{Prefix: "nlx", Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	node := lab.Clients()[0]
	var w *Watcher
	var tc *TC
	err = node.Do(func() (err error) {
		if w, err = NewWatcher(slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		id, err := Namespace()
		if err != nil {
			return err
		}
		tc, err = OpenTC(id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	defer w.Close()
	index, err := node.Ifindex("eth0")
	if err != nil {
		t.Fatal(err)
	}
	done, failed := make(chan struct{}), make(chan error, 1)
	removals, err := w.removals(done, func(err error) { failed <- err })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tc.AddClsact(index); err != nil {
			t.Fatal(err)
		}
		select {
		case <-removals:
			t.Error("it is told of before it is removed")
		default:
		}
		if err := tc.DelClsact(index); err != nil {
			t.Fatal(err)
		}
		select {
		case <-removals:
		case err := <-failed:
			t.Fatal(err)
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is told in 20 s")
		}
	}
	close(done)
	select {
	case <-failed: // the end of the socket: whoever listened has gone
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}
