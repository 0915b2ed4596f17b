// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"testing"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
)

// The timeouts hold from the first Apply of a process, for the flows of the one
// before too, and are shown.
func TestFlowsLiveAsLongAsTheProcessSays(t *testing.T) {
	r := newRig(t, nil)
	r.apply(serve("web", from(1, 1), 1))
	client, server := r.connect(1)
	r.Advance(850 * time.Second)
	r.wantStays(client, 1, server)
	r.timeouts = Timeouts{TCP: 100 * time.Second}
	r.do(r.Restart())
	r.apply(serve("web", from(1, 1), 1))
	r.follow()
	r.wantStays(client, 1, server)
	flows := func() (n int, left time.Duration) {
		r.do(r.d.withReader(func(r *reader) error {
			return r.Flows(func(f dataplane.Flow) error { n++; left = f.Expires; return nil })
		}))
		return n, left
	}
	if n, left := flows(); n != 1 || left > 100*time.Second || left < 90*time.Second {
		t.Errorf("%d flows, %s left", n, left)
	}
	r.Advance(98 * time.Second)
	if n, _ := flows(); n != 1 {
		t.Errorf("%d flows after 98 s", n)
	}
	r.Advance(4 * time.Second)
	if n, _ := flows(); n != 0 {
		t.Errorf("%d flows after 102 s", n)
	}
}
