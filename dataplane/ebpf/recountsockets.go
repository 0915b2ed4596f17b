// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/maps/sockets"
)

// moves are the sockets, by cookie, that go back to a backend where they were
// before without a new connection: those that are not connected. With each how
// often it did.
type moves map[uint64]uint16

// moved is how many of them moved until they were met again; of those that ended
// meanwhile it counts those that had moved before.
func (m moves) moved(later moves) (n uint64) {
	for cookie, before := range m {
		if now, there := later[cookie]; now != before && (there || before > 0) {
			n++
		}
	}
	return n
}

// countSockets adds the sockets that count to what was found, by backend id.
func (r *reader) countSockets(ctx context.Context, found []dataplane.Load) (moves, error) {
	movable := make(moves)
	err := sockets.Each(r.walk.Open, func(w *bpf.LBWalkedSocket) error {
		if sockets.Counts(w) && int(w.Socket.Backend) < len(found) {
			if sockets.Active(w) {
				found[w.Socket.Backend].Active++
			} else {
				found[w.Socket.Backend].Inactive++
			}
		}
		if !sockets.Connected(w) { // also if it counts for none: it may be on its way
			movable[w.Cookie] = w.Socket.Moves
		}
		return ctx.Err()
	})
	return movable, err
}
