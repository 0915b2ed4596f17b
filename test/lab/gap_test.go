// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// arrivals remembers when datagrams came.
type arrivals struct {
	mu   sync.Mutex
	at   []time.Time
	seen map[uint64]bool
}

func (a *arrivals) note(number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
	a.seen[number] = true
}

// longest returns the longest time without one, of those between two times.
func (a *arrivals) longest(from, to time.Time) (gap time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := from
	for _, t := range a.at {
		if t.After(from) && t.Before(to) {
			gap, last = max(gap, t.Sub(last)), t
		}
	}
	return gap
}

func (a *arrivals) missing(n uint64) (missing []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range n {
		if !a.seen[i] {
			missing = append(missing, i)
		}
	}
	return missing
}

// receiveNumbered notes the numbers of datagrams until the socket is closed, and
// sends them back if it is to.
func receiveNumbered(pc net.PacketConn, a *arrivals, back bool) {
	b := make([]byte, 64)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		a.note(binary.BigEndian.Uint64(b[:n]))
		if back {
			if _, err := pc.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}
}

// No datagram of a flow is lost while the daemon is killed and started again;
// -v shows the longest times without one, at both ends.
func TestARestartLosesNoDatagram(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1, VIPs: []netip.Addr{netlab.VIP4}})
	server, client := s.Servers()[0], s.Clients()[0]
	s.write("-A -u " + vip4.String() + " -s rr\n-a -u " + vip4.String() + " -r " + netip.AddrPortFrom(server.Addr(false), 8080).String() + " -m -w 1\n")
	s.start()
	pc, err := server.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(server.Addr(false), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	out, err := client.ListenPacket(t.Context(), "udp", netip.AddrPortFrom(client.Addr(false), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	there, here := &arrivals{seen: make(map[uint64]bool)}, &arrivals{seen: make(map[uint64]bool)}
	go receiveNumbered(pc, there, true)
	go receiveNumbered(out, here, false)

	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan uint64, 1)
	go func() { sent <- sendNumbered(ctx, t, out) }()
	var marks []time.Time
	mark := func() { marks = append(marks, time.Now()) }
	mark()
	time.Sleep(2 * time.Second)
	for range 3 {
		mark()
		s.kill()
		s.start()
	}
	mark()
	stop()
	n := <-sent
	s.eventually("all datagrams are back", func() error {
		if left := here.missing(n); len(left) > 0 {
			return errors.New("some are missing")
		}
		return nil
	})
	if lost := there.missing(n); len(lost) > 0 {
		t.Errorf("%d of %d datagrams were lost: %v", len(lost), n, lost[:min(len(lost), 10)])
	}
	var atServer, atClient []time.Duration
	for i := range len(marks) - 1 {
		atServer = append(atServer, there.longest(marks[i], marks[i+1]))
		atClient = append(atClient, here.longest(marks[i], marks[i+1]))
	}
	t.Logf("%d datagrams; longest time without one at the server: %v, with kill and start: %v; at the client: %v, and %v",
		n, atServer[0], slices.Max(atServer[1:]), atClient[0], slices.Max(atClient[1:]))
}

// sendNumbered sends a numbered datagram every 200 µs or so until ctx ends.
func sendNumbered(ctx context.Context, t *testing.T, out net.PacketConn) (n uint64) {
	to := net.UDPAddrFromAddrPort(vip4)
	for ; ctx.Err() == nil; n++ {
		if _, err := out.WriteTo(binary.BigEndian.AppendUint64(nil, n), to); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
			return n
		}
		time.Sleep(200 * time.Microsecond)
	}
	return n
}
