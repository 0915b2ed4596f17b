// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// TestConnectionsOfAnotherLayoutGoOn: an upgrade to a version whose maps have
// another layout keeps the connections, until their time is over.
func TestConnectionsOfAnotherLayoutGoOn(t *testing.T) {
	s := started(t, 3, false)
	var streams []*stream
	for i := range 6 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	s.kill()
	meta, err := ebpf.LoadPinnedMap(filepath.Join(s.pins, "meta"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	if err := meta.Put(uint32(0), bpf.LBClocks{Layout: 99}); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.logs(1, "the maps here have another layout", "layout=99")
	s.goesOn(streams)
	fresh := s.stream(vips[0])
	s.write(s.text(s.Servers()[0]))
	s.eventually("the new version applies changes", func() error { return s.never("s2") })
	s.goesOn(append(streams, fresh))
	s.finish(streams)

	s.kill()
	s.args = append(s.args, "--drain-timeout", "1ms")
	s.start()
	s.logs(1, "connections of another layout have ended")
	s.goesOn([]*stream{fresh})
	s.finish([]*stream{fresh})
}
